#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/fd.h"

namespace keyload::cli {

// Files that the command writes. All of it blocks on the disk; thread-safe. Errors: UsageError where no file can be
// made, INTERNAL when the disk fails; the message names `path`.

// UsageError if `path` is something that a new file must not take away: a device, a directory or a link.
absl::Status CheckReplaceable(const std::string& path);

// The same, and UsageError if no file can be made in the directory of `path`. What is possible now may not be later.
absl::Status CheckWritable(const std::string& path);

// A new file beside `path`, open for reading and writing, and its name. The caller removes it.
absl::StatusOr<std::pair<UniqueFd, std::string>> MakeTemporary(const std::string& path);

absl::Status WriteAll(int fd, std::string_view bytes, const std::string& path);

// INTERNAL with errno's text, for the operation that has just failed.
absl::Status DiskError(const std::string& path, const char* operation);

// Makes `path` the file that `write` fills, of mode 0644, all of it or nothing: a file that was there stays until the
// new one is on the disk.
absl::Status ReplaceFile(const std::string& path, absl::FunctionRef<absl::Status(int fd)> write);

}  // namespace keyload::cli
