#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/fd.h"

namespace keyload {

// Records that outlive the process: one file each, in a folder per kind, written beside and renamed into place, with a
// checksum. So a record is whole or it is the one before, and what is broken costs itself alone. Blocks on files.
// Thread-safe for different records; the caller orders what it does to one.
class StateDirectory {
 public:
  // Makes what is absent of `path`, readable to this user only, and locks it: two daemons cannot share one. BAD_REQUEST
  // says what the system refused, or that another daemon has it. What a killed process left half written is removed.
  static absl::StatusOr<StateDirectory> Open(const std::string& path, const std::vector<std::string>& kinds);

  // `kind` is one of Open's; `name` is a file's name and does not begin with a dot. On the disk when it returns.
  // IO_ERROR; DOCUMENT_TOO_LARGE over 1 GiB. What was there before is there after an error.
  absl::Status Write(std::string_view kind, std::string_view name, std::string_view bytes) const;
  // OK when there is none. IO_ERROR.
  absl::Status Remove(std::string_view kind, std::string_view name) const;
  // Of all records of a kind, in order. IO_ERROR.
  absl::StatusOr<std::vector<std::string>> Names(std::string_view kind) const;
  // CHECKPOINT_NOT_FOUND when there is none; CHECKPOINT_CORRUPT when it is not what was written; else what
  // ErrnoToStatus says.
  absl::StatusOr<std::string> Read(std::string_view kind, std::string_view name) const;
  // Takes a record that makes no sense out of the way: to `aside/KIND-NAME`, in the place of an older one. The log says
  // why.
  void SetAside(std::string_view kind, std::string_view name, const absl::Status& why) const;

  const std::string& path() const { return path_; }

 private:
  StateDirectory(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  std::string FileOf(std::string_view kind, std::string_view name) const;

  std::string path_;
  UniqueFd lock_;
};

}  // namespace keyload
