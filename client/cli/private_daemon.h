#pragma once

#include <sys/types.h>

#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "keyload/client.h"
#include "server/base/fd.h"

namespace keyload::cli {

// The daemon that `keyload check` runs for itself: its own socket in its own folder under the system's folder for
// temporary files, every path allowed (it runs as the caller, who could read them anyway), and of the settings in the
// environment KEYLOADD_TEMPLATE_DIR alone. It ends with this object, and is killed if this program dies. Not
// thread-safe; Start must be called on the thread that lives longest, the kernel watches that one.
class PrivateDaemon {
 public:
  // Starts `program` and waits until it serves. UsageError if there is no such program; CANCELLED on a stop request,
  // DEADLINE_EXCEEDED after `timeout`, INTERNAL if the daemon ends before it serves (it says why on standard error).
  static absl::StatusOr<std::unique_ptr<PrivateDaemon>> Start(const std::string& program, const CallOptions& options);
  // SIGTERM, waits for the end (SIGKILL after ten seconds), removes the folder.
  ~PrivateDaemon();
  PrivateDaemon(const PrivateDaemon&) = delete;

  const std::string& address() const { return address_; }

 private:
  explicit PrivateDaemon(std::string folder)
      : folder_(std::move(folder)), address_("unix:" + folder_ + "/keyload.sock") {}
  absl::Status Spawn(const std::string& program);
  absl::Status WaitUntilServing(const CallOptions& options);
  // True when the daemon has ended within `timeout`.
  bool WaitForEnd(absl::Duration timeout) const;

  const std::string folder_;
  const std::string address_;
  pid_t pid_ = -1;
  UniqueFd process_;
};

// `keyloadd` beside the running executable, else the first on `search_path` (as PATH: folders, ":" between); "" if
// none.
std::string FindDaemon(const std::string& search_path);

}  // namespace keyload::cli
