#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "server/base/error.h"

namespace keyload {

// What a file is, where it is not what its name says: a download that stored an error page, a clone without Git LFS,
// weights of another program under a name of ours. Nothing of it is ever opened; its first bytes, or its name, are
// enough to say what it is and what to do about it.
struct FileKind {
  std::string_view id;     // for programs: "git_lfs_pointer"
  std::string what;        // "a Git LFS pointer, not the file itself"
  std::string_view todo;   // "fetch the file with `git lfs pull`"
  bool is_format = false;  // a format of its own that is not read, and no damage
};

// How many bytes from the start of a file RecognizeFile looks at; fewer only if the file has fewer.
inline constexpr size_t kFileKindBytes = 512;

// Tells what a file with these first bytes is; nothing for what may be safetensors or is not known. `file_size` is that
// of the whole file. Pure.
std::optional<FileKind> RecognizeFile(std::string_view first, uint64_t file_size);

// The same for a file that should be a JSON object and could not be read as one: what begins as an object is recognised
// only where it is an error message, as else its own mistakes say more.
std::optional<FileKind> RecognizeInsteadOfJson(std::string_view first, uint64_t file_size);

// The same for a file that should be a list of names: nothing for text of no special kind.
std::optional<FileKind> RecognizeInsteadOfList(std::string_view first, uint64_t file_size);

// Tells what a file of this name is: weights in another format, a piece of a split file, an unfinished download, or
// ".SAFETENSORS". Nothing for all other names. Pure.
std::optional<FileKind> RecognizeName(std::string_view name);

// "FILE is WHAT; TODO", with FORMAT_NOT_SUPPORTED for other formats and `reason` for the rest. Metadata `file` and
// `found`, the kind's id.
absl::Status WrongKind(Reason reason, std::string_view file, const FileKind& kind);

inline constexpr std::string_view kUtf8ByteOrderMark = "\xEF\xBB\xBF";
// Text that may begin with a byte order mark, without it.
inline std::string_view WithoutByteOrderMark(std::string_view text) {
  if (text.starts_with(kUtf8ByteOrderMark)) text.remove_prefix(kUtf8ByteOrderMark.size());
  return text;
}

}  // namespace keyload
