#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
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
  // Brings a folder's entries to the disk: fsync, or what a test puts in its place. As a system call: -1 and errno.
  using FolderSync = std::function<int(int fd)>;
  struct Record {
    std::string_view name;
    std::string_view bytes;
  };

  // Makes what is absent of `path`, readable to this user only, and locks it: two daemons cannot share one. BAD_REQUEST
  // says what the system refused, or that another daemon has it. What a killed process left half written is removed.
  static absl::StatusOr<StateDirectory> Open(const std::string& path, const std::vector<std::string>& kinds,
                                             FolderSync sync = FsyncFolder);

  // `kind` is one of Open's; `name` is a file's name and does not begin with a dot. On the disk when it returns.
  // IO_ERROR; DOCUMENT_TOO_LARGE over 1 GiB. The record that was there before is there after an error; only on a file
  // system that cannot exchange two names it may be the new one, when nothing but the last step (fsync of the folder)
  // failed.
  absl::Status Write(std::string_view kind, std::string_view name, std::string_view bytes) const;
  // The same for several records, whose folder is brought to the disk once. Returns the first error; the other records
  // are written all the same.
  absl::Status WriteAll(std::string_view kind, std::span<const Record> records) const;
  // OK when there is none. IO_ERROR.
  absl::Status Remove(std::string_view kind, std::string_view name) const;
  // The same for records that may come back when the machine stops at once: nothing is brought to the disk. Returns the
  // first error.
  absl::Status Forget(std::string_view kind, std::span<const std::string> names) const;
  // Of all records of a kind, in order. IO_ERROR.
  absl::StatusOr<std::vector<std::string>> Names(std::string_view kind) const;
  // CHECKPOINT_NOT_FOUND when there is none; CHECKPOINT_CORRUPT when it is not what was written; else what
  // ErrnoToStatus says.
  absl::StatusOr<std::string> Read(std::string_view kind, std::string_view name) const;
  // Takes a record that makes no sense out of the way: to `aside/KIND-NAME`, in the place of an older one. The log says
  // why.
  void SetAside(std::string_view kind, std::string_view name, const absl::Status& why) const;

  const std::string& path() const { return path_; }
  // Lets another process have the directory, for one that is about to end and cannot be destroyed. Nothing may be
  // written from then on.
  void GiveUpLock() { lock_ = UniqueFd(); }

 private:
  static int FsyncFolder(int fd);

  StateDirectory(std::string path, UniqueFd lock, FolderSync sync)
      : path_(std::move(path)), lock_(std::move(lock)), sync_(std::move(sync)) {}
  std::string FileOf(std::string_view kind, std::string_view name) const;
  absl::Status WriteHalf(std::string_view kind, std::string_view name, std::string_view bytes) const;
  absl::Status SyncFolder(std::string_view kind) const;

  std::string path_;
  UniqueFd lock_;
  FolderSync sync_;
  std::map<std::string, UniqueFd, std::less<>>
      folders_;  // by kind: held, as a full descriptor table must not stop them
};

}  // namespace keyload
