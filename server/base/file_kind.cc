#include "server/base/file_kind.h"

#include <algorithm>

#include "server/base/strings.h"
#include "server/base/utf8.h"

namespace keyload {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kFetchAgain = "fetch it again, and look at what the server answered";
constexpr std::string_view kConvert = "take a copy in safetensors, or convert it where you trust it";
constexpr std::string_view kUnpack = "unpack it beside its name";
constexpr std::string_view kSaveAsUtf8 = "save it as UTF-8";
constexpr size_t kShownText = 60;

FileKind Format(std::string_view id, std::string_view what, std::string_view todo = kConvert) {
  return {.id = id, .what = std::string(what), .todo = todo, .is_format = true};
}
FileKind Text(std::string_view id, std::string what, std::string_view todo) {
  return {.id = id, .what = std::move(what), .todo = todo};
}

// Bytes that begin a file of one kind, wherever else nothing speaks against it.
struct Signature {
  std::string_view bytes;
  std::string_view id;
  std::string_view what;
  std::string_view todo;
};

constexpr Signature kSignatures[] = {
    {"PK\x03\x04"sv, "zip", "a zip archive, as torch.save writes pickled weights", kConvert},
    {"PK\x05\x06"sv, "zip", "an empty zip archive", kConvert},
    {"GGUF"sv, "gguf", "a GGUF file", kConvert},
    {"lmgg"sv, "ggml", "a GGML file", kConvert},
    {"tjgg"sv, "ggml", "a GGML file", kConvert},
    {"\x89HDF\r\n\x1a\n"sv, "hdf5", "an HDF5 file, as Keras writes weights", kConvert},
    {"\x93NUMPY"sv, "numpy", "a NumPy array", kConvert},
    {"\x1f\x8b"sv, "gzip", "compressed with gzip", kUnpack},
    {"\xfd"
     "7zXZ\0"sv,
     "xz", "compressed with xz", kUnpack},
    {"\x28\xb5\x2f\xfd"sv, "zstd", "compressed with zstd", kUnpack},
    {"BZh"sv, "bzip2", "compressed with bzip2", kUnpack},
    {"7z\xbc\xaf\x27\x1c"sv, "7z", "a 7z archive", kUnpack},
};

uint64_t LittleEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < std::min<size_t>(bytes.size(), 8); ++i)
    value |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  return value;
}

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

std::string_view SkipSpace(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  return text;
}

bool StartsWithIgnoringCase(std::string_view text, std::string_view lower) {
  if (text.size() < lower.size()) return false;
  return std::equal(lower.begin(), lower.end(), text.begin(),
                    [](char a, char b) { return a == (b >= 'A' && b <= 'Z' ? b - 'A' + 'a' : b); });
}

// A length and an object: no other format's first bytes are of any account then.
bool MayBeSafetensors(std::string_view first, uint64_t file_size) {
  if (first.size() < 9) return false;
  const uint64_t length = LittleEndian(first);
  return length >= 2 && length <= file_size && SkipSpace(first.substr(8)).starts_with('{');
}

bool IsTar(std::string_view first) { return first.size() >= 262 && first.substr(257, 5) == "ustar"; }

// PROTO, and an opcode that may follow it.
bool IsPickle(std::string_view first) {
  constexpr std::string_view kNext = "\x95}](c\x8a)XK]"sv;
  return first.size() > 2 && first[0] == '\x80' && first[1] >= 2 && first[1] <= 5 &&
         kNext.find(first[2]) != std::string_view::npos;
}

// A ModelProto: ir_version, then the producer's name or an opset.
bool IsOnnx(std::string_view first) {
  if (first.size() < 4 || first[0] != '\x08' || first[1] < 1 || first[1] > 32) return false;
  if (first[2] != '\x12') return first[2] == '\x3a' || first[2] == '\x42';
  const auto length = static_cast<unsigned char>(first[3]);
  const std::string_view name = first.substr(4, length);
  return length > 0 && length < 64 && std::all_of(name.begin(), name.end(), [](char c) { return c >= ' ' && c < 127; });
}

// A map whose first key is a short text, as Flax writes its parameters.
bool IsMessagePack(std::string_view first) {
  size_t key = 1;
  if (first.starts_with('\xde')) key = 3;
  if (first.starts_with('\xdf')) key = 5;
  const bool is_map = key > 1 || (!first.empty() && (first[0] & 0xf0) == 0x80 && first[0] != '\x80');
  if (!is_map || first.size() <= key + 1 || (first[key] & 0xe0) != 0xa0) return false;
  const std::string_view name = first.substr(key + 1, first[key] & 0x1f);
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 127; });
}

bool IsUtf16(std::string_view first) {
  if (first.starts_with("\xff\xfe"sv) || first.starts_with("\xfe\xff"sv)) return true;
  if (first.size() < 8) return false;
  const auto every_other_is_nul = [&](size_t from) {
    for (size_t i = 0; i < 8; ++i) {
      const bool nul = first[i] == '\0';
      if (nul != (i % 2 == from)) return false;
    }
    return true;
  };
  return every_other_is_nul(0) || every_other_is_nul(1);
}

// The number behind "size " in a pointer; empty if there is none.
std::string_view PointerSize(std::string_view pointer) {
  const size_t at = pointer.find("\nsize ");
  if (at == std::string_view::npos) return {};
  const std::string_view rest = pointer.substr(at + 6);
  return rest.substr(0, std::min<size_t>(rest.find_first_not_of("0123456789"), 20));
}

// "{" and the first key.
bool IsJsonError(std::string_view text) {
  const std::string_view key = SkipSpace(text.substr(1));
  for (const std::string_view word : {"\"error\""sv, "\"errors\""sv, "\"message\""sv, "\"detail\""sv,
                                      "\"error_code\""sv, "\"error_message\""sv, "\"Message\""sv}) {
    if (key.starts_with(word)) return true;
  }
  return false;
}

bool IsJson(std::string_view text) {
  if (text.empty() || (text[0] != '{' && text[0] != '[')) return false;
  const std::string_view next = SkipSpace(text.substr(1));
  return !next.empty() && std::string_view(text[0] == '{' ? "\"}" : "\"{[]").find(next[0]) != std::string_view::npos;
}

// Text without control characters; the last character may be cut.
bool IsPlainText(std::string_view first) {
  const size_t most_cut = first.size() < kFileKindBytes ? 0 : 3;
  for (size_t cut = 0; cut <= most_cut; ++cut) {
    const std::string_view whole = first.substr(0, first.size() - cut);
    if (!IsUtf8(whole)) continue;
    return std::all_of(whole.begin(), whole.end(),
                       [](char c) { return IsSpace(c) || static_cast<unsigned char>(c) >= ' '; });
  }
  return false;
}

std::string ShownText(std::string_view text) {
  std::string_view line = text.substr(0, text.find_first_of("\r\n"));
  const bool cut = line.size() > kShownText || line.size() < text.size();
  line = line.substr(0, kShownText);
  while (!line.empty() && !IsUtf8(line)) line.remove_suffix(1);
  return StrCat("\"", line, cut ? "...\"" : "\"");
}

std::optional<FileKind> RecognizeText(std::string_view first) {
  const std::string_view text = SkipSpace(WithoutByteOrderMark(first));
  if (text.empty()) return std::nullopt;
  if (text.starts_with("version https://git-lfs.github.com/")) {
    const std::string_view size = PointerSize(text);
    return Text(
        "git_lfs_pointer",
        StrCat("a Git LFS pointer", size.empty() ? "" : StrCat(" to ", size, " bytes"), ", not the file itself"),
        "fetch the file with `git lfs pull`");
  }
  for (const std::string_view tag : {"<!doctype html"sv, "<html"sv, "<head"sv, "<body"sv}) {
    if (StartsWithIgnoringCase(text, tag))
      return Text("html", "an HTML page, as servers send for an error", kFetchAgain);
  }
  if (StartsWithIgnoringCase(text, "<?xml") || StartsWithIgnoringCase(text, "<error")) {
    return Text("xml", "an XML document, as object stores send for an error", kFetchAgain);
  }
  if (IsJson(text)) {
    if (IsJsonError(text))
      return Text("json_error", StrCat("an error message in JSON (", ShownText(text), ")"), kFetchAgain);
    return Text("json", "JSON text", kFetchAgain);
  }
  if (!IsPlainText(text)) return std::nullopt;
  return Text("text", StrCat("plain text (", ShownText(text), ")"), kFetchAgain);
}

bool EndsWithNumberOrLetters(std::string_view name, std::string_view before) {
  const size_t at = name.rfind(before);
  if (at == std::string_view::npos) return false;
  const std::string_view rest = name.substr(at + before.size());
  const bool letters =
      rest.size() == 2 && rest.find_first_not_of("abcdefghijklmnopqrstuvwxyz") == std::string_view::npos;
  return letters ||
         (!rest.empty() && rest.size() <= 3 && rest.find_first_not_of("0123456789") == std::string_view::npos);
}

// "x.safetensors.part-aa", "x.safetensors.001", "x.safetensors-split-a": a piece that `cat` puts together.
bool IsSplitPart(std::string_view name) {
  for (const std::string_view before :
       {".part-"sv, ".part"sv, ".part."sv, ".safetensors."sv, ".split-"sv, ".split."sv}) {
    if (EndsWithNumberOrLetters(name, before)) return true;
  }
  const size_t split = name.find("-split-");
  if (split != std::string_view::npos && name.size() - split == 8) return true;
  const size_t part = name.find(".part");  // "x.safetensors.part1of3"
  return part != std::string_view::npos && name.find("of", part) != std::string_view::npos &&
         name.find_first_not_of("0123456789of", part + 5) == std::string_view::npos;
}

struct Suffix {
  std::string_view end;
  std::string_view id;
  std::string_view what;
};

constexpr Suffix kFormats[] = {
    {".bin", "pickle", "pickled weights"},
    {".bin.index.json", "pickle", "the index of pickled weights"},
    {".pt", "pickle", "pickled weights"},
    {".pth", "pickle", "pickled weights"},
    {".ckpt", "pickle", "a pickled checkpoint"},
    {".pkl", "pickle", "pickled weights"},
    {".distcp", "pickle", "a part of a distributed PyTorch checkpoint"},
    {".gguf", "gguf", "a GGUF file"},
    {".ggml", "ggml", "a GGML file"},
    {".onnx", "onnx", "an ONNX model"},
    {".onnx_data", "onnx", "the weights of an ONNX model"},
    {".h5", "hdf5", "an HDF5 file, as Keras writes weights"},
    {".hdf5", "hdf5", "an HDF5 file"},
    {".keras", "keras", "a Keras archive"},
    {".msgpack", "msgpack", "Flax weights in MessagePack"},
    {".npz", "numpy", "a NumPy archive"},
    {".npy", "numpy", "a NumPy array"},
    {".ot", "rust_torch", "weights of tch-rs"},
    {".tflite", "tflite", "a TensorFlow Lite model"},
    {".nemo", "nemo", "a NeMo archive"},
    {".engine", "tensorrt", "a TensorRT engine"},
};

}  // namespace

std::optional<FileKind> RecognizeFile(std::string_view first, uint64_t file_size) {
  if (file_size == 0) return FileKind{.id = "empty", .what = "empty", .todo = "fetch it again"};
  first = first.substr(0, kFileKindBytes);
  if (first.empty() || MayBeSafetensors(first, file_size)) return std::nullopt;
  if (std::all_of(first.begin(), first.end(), [](char c) { return c == '\0'; })) {
    return FileKind{.id = "zeros",
                    .what = first.size() == file_size ? "nothing but zero bytes"
                                                      : StrCat("all zero bytes in its first ", first.size()),
                    .todo = "the download reserved its space and did not fill it: fetch it again"};
  }
  for (const Signature& signature : kSignatures) {
    if (first.starts_with(signature.bytes)) return Format(signature.id, signature.what, signature.todo);
  }
  if (first.size() >= 8 && first.substr(4, 4) == "TFL3") return Format("tflite", "a TensorFlow Lite model");
  if (IsTar(first)) return Format("tar", "a tar archive", kUnpack);
  if (IsPickle(first)) return Format("pickle", "a pickle file");
  if (IsUtf16(first)) return Text("utf16", "UTF-16 text", kSaveAsUtf8);
  if (std::optional<FileKind> text = RecognizeText(first)) return text;
  if (IsOnnx(first)) return Format("onnx", "an ONNX model");
  if (IsMessagePack(first)) return Format("msgpack", "MessagePack, as Flax writes weights");
  return std::nullopt;
}

std::optional<FileKind> RecognizeInsteadOfJson(std::string_view first, uint64_t file_size) {
  std::optional<FileKind> kind = RecognizeFile(first, file_size);
  const bool is_object = SkipSpace(WithoutByteOrderMark(first)).starts_with('{');
  return kind && is_object && kind->id != "json_error" ? std::nullopt : kind;
}

std::optional<FileKind> RecognizeInsteadOfList(std::string_view first, uint64_t file_size) {
  std::optional<FileKind> kind = RecognizeFile(first, file_size);
  if (!kind || kind->id == "text" || kind->id == "empty") return std::nullopt;
  // Names may begin with the letters of a signature.
  return kind->is_format && IsPlainText(first.substr(0, kFileKindBytes)) ? std::nullopt : kind;
}

std::optional<FileKind> RecognizeName(std::string_view name) {
  for (const std::string_view end :
       {".incomplete"sv, ".crdownload"sv, ".aria2"sv, ".download"sv, ".part"sv, ".tmp"sv}) {
    if (name.ends_with(end)) {
      return FileKind{.id = "incomplete", .what = "an unfinished download", .todo = "let the download run to its end"};
    }
  }
  if (IsSplitPart(name)) {
    return FileKind{.id = "split", .what = "a piece of a split file", .todo = "put the pieces together with `cat`"};
  }
  for (const Suffix& format : kFormats) {
    if (name.ends_with(format.end)) return Format(format.id, format.what);
  }
  constexpr std::string_view kSafetensors = ".safetensors";
  if (name.size() > kSafetensors.size() && !name.ends_with(kSafetensors) &&
      StartsWithIgnoringCase(name.substr(name.size() - kSafetensors.size()), kSafetensors)) {
    return FileKind{
        .id = "capitals", .what = "named in capital letters", .todo = "rename it so that it ends in .safetensors"};
  }
  return std::nullopt;
}

absl::Status WrongKind(Reason reason, std::string_view file, const FileKind& kind) {
  return MakeError(kind.is_format ? Reason::kFormatNotSupported : reason,
                   StrCat(file, " is ", kind.what, "; ", kind.todo),
                   {{"file", std::string(file)}, {"found", std::string(kind.id)}});
}

}  // namespace keyload
