#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/checkpoint/file_identity.h"
#include "server/checkpoint/model_roots.h"

namespace keyload {

// A checkpoint's directory, held open. Its path may lead to another directory at any moment: whoever publishes a new
// version exchanges directories or moves a link. So all files of a checkpoint are opened relative to this descriptor,
// and none by the path. Files that are replaced one by one inside the directory are seen by CheckEntry, after the last
// one was opened: what every name leads to then was open already, so all of it was there at one and the same time.
// Immutable, thread-safe.
class CheckpointDirectory {
 public:
  explicit CheckpointDirectory(OpenedPath directory) : directory_(std::move(directory)) {}

  const OpenedPath& opened() const { return directory_; }
  const std::string& resolved() const { return directory_.resolved; }  // where it was when it was opened
  std::string PathOf(std::string_view name) const { return ModelRoots::PathIn(directory_, name); }

  // Opens the entry `name`, a file name or a path below the directory, where links lead to inside of `roots`; as
  // ModelRoots::Open does.
  absl::StatusOr<OpenedPath> Open(const ModelRoots& roots, const std::string& name) const {
    return roots.OpenIn(directory_, name);
  }
  // CHECKPOINT_CHANGED unless the entry `name` leads to the file that was identified as `opened`. IO_ERROR.
  absl::Status CheckEntry(const std::string& name, const FileIdentity& opened) const;

 private:
  const OpenedPath directory_;
};

}  // namespace keyload
