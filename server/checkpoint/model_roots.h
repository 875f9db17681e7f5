#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "server/base/fd.h"

namespace keyload {

// A file or directory that was opened inside an allowed root.
struct OpenedPath {
  UniqueFd fd;           // O_RDONLY | O_CLOEXEC
  std::string resolved;  // absolute, symlinks followed
  bool is_directory = false;
};

// The directories that requests may name. What a path resolves to, symlinks followed, must lie in one of them; the
// check is made on the object that was opened, so that a swapped symlink cannot pass it. Thread-safe, immutable.
class ModelRoots {
 public:
  // Resolves every root once. CHECKPOINT_NOT_FOUND or BAD_REQUEST names a root that is not a directory.
  static absl::StatusOr<ModelRoots> Create(const std::vector<std::string>& roots);
  ModelRoots() = default;  // allows nothing

  // Opens a regular file or a directory for reading; anything else is BAD_REQUEST. `path` must be absolute and free of
  // NUL. PATH_NOT_ALLOWED for what lies outside, whether it exists or not; CHECKPOINT_NOT_FOUND, PATH_NOT_READABLE,
  // IO_ERROR. May block on the file system.
  absl::StatusOr<OpenedPath> Open(std::string_view path) const;
  // The same for the entry `name` of an open directory, wherever the directory is now. Links are followed, and lead to
  // the same check. Errors call it `directory.resolved`/`name`. REQUIRES: `name` is a file name, or a path without NUL.
  absl::StatusOr<OpenedPath> OpenIn(const OpenedPath& directory, const std::string& name) const;

  const std::vector<std::string>& roots() const { return roots_; }

  // "DIR/NAME", as errors call an entry of a directory.
  static std::string PathIn(const OpenedPath& directory, std::string_view name);

 private:
  // Checks what `handle`, an O_PATH descriptor, leads to, and opens it for reading. path() is for errors.
  absl::StatusOr<OpenedPath> OpenChecked(const UniqueFd& handle, absl::FunctionRef<std::string()> path) const;
  bool Contains(std::string_view resolved) const;
  // For a `path` that cannot be opened: whether following it ends inside a root. Only then may the answer say more than
  // "not allowed".
  bool StopsInside(std::string path) const;
  absl::Status NotAllowed(const std::string& path) const;

  std::vector<std::string> roots_;  // resolved
};

}  // namespace keyload
