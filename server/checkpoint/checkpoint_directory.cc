#include "server/checkpoint/checkpoint_directory.h"

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {

absl::Status CheckpointDirectory::CheckEntry(const std::string& name, const FileIdentity& opened) const {
  const absl::StatusOr<FileIdentity> now = IdentifyEntry(directory_.fd.get(), name, name);
  if (now.ok() && *now == opened) return absl::OkStatus();
  const std::string path = PathOf(name);
  if (!now.ok() && ErrorReason(now.status()) != Reason::kCheckpointNotFound) return now.status();
  return MakeError(Reason::kCheckpointChanged,
                   StrCat(path, now.ok() ? ": the file was replaced or written" : ": the file was removed",
                          " while the checkpoint was opened"),
                   {{"path", directory_.resolved}, {"file", name}});
}

}  // namespace keyload
