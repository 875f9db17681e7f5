#include "client/cli/input_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/cli/exit_code.h"
#include "client/cli/json_message.h"
#include "keyload/v1/model_loader.pb.h"
#include "server/base/error.h"
#include "server/base/file_kind.h"
#include "server/base/strings.h"

namespace keyload::cli {
namespace {

constexpr size_t kFirstReadBytes = 1 << 16;
constexpr size_t kSpareBytes = 128;  // the end is found without another buffer, and a JSON parser wants room behind it

}  // namespace

absl::StatusOr<std::string> ReadInputFile(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return UsageError(path + ": is a directory");
  std::ifstream file(path, std::ios::binary);
  if (!file) return UsageError(absl::StrFormat("%s: %s", path, std::strerror(errno)));
  std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) size = 0;  // that of a pipe is not known before its end
  std::string bytes;
  while (file) {
    const size_t had = bytes.size();
    bytes.resize(had == 0 ? std::max<size_t>(size + kSpareBytes, kFirstReadBytes) : had * 2);
    file.read(bytes.data() + had, static_cast<std::streamsize>(bytes.size() - had));
    bytes.resize(had + static_cast<size_t>(file.gcount()));
  }
  if (file.bad()) return UsageError(path + ": cannot be read");
  return bytes;
}

absl::StatusOr<std::string> ReadManifestFile(const std::string& path) {
  absl::StatusOr<std::string> bytes = ReadInputFile(path);
  if (!bytes.ok()) return bytes;
  bytes->erase(0, bytes->size() - WithoutByteOrderMark(*bytes).size());
  size_t first = bytes->find_first_not_of(" \t\r\n");
  if (first == std::string::npos || (*bytes)[first] != '{') return bytes;
  absl::StatusOr<std::string> manifest = JsonToBinary(*std::move(bytes), v1::ModelManifest());
  if (manifest.ok()) return manifest;
  return UsageError(absl::StrFormat("%s: not a manifest: %s", path, std::string(manifest.status().message())));
}

absl::StatusOr<std::vector<std::string>> ReadKeyFile(const std::string& path) {
  absl::StatusOr<std::string> bytes = ReadInputFile(path);
  if (!bytes.ok()) return std::move(bytes).status();
  if (const auto kind = RecognizeInsteadOfList(*bytes, bytes->size()))
    return UsageError(std::string(WrongKind(Reason::kBadRequest, path, *kind).message()));
  std::vector<std::string> keys;
  for (absl::string_view line : absl::StrSplit(ToAbsl(WithoutByteOrderMark(*bytes)), '\n')) {
    line = absl::StripSuffix(line, "\r");
    if (!line.empty()) keys.emplace_back(line);
  }
  return keys;
}

}  // namespace keyload::cli
