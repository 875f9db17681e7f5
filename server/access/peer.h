#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/mutex.h"

namespace keyload {

// The process at the other end of a Unix socket as it was when it connected, in the numbers of this process's user
// namespace: an id that is not mapped there is 65534.
struct PeerProcess {
  pid_t pid = 0;
  uint32_t uid = 0;
  std::vector<uint32_t> gids;  // its effective and its supplementary groups
};

// Of the connected Unix socket `fd`; what the system refused.
absl::StatusOr<PeerProcess> ReadPeer(int fd);

// The host at the other end of the connected TCP socket `fd`, for counting what one host does: its IPv4 address, or the
// first 64 bits of its IPv6 address, as one host usually has all the addresses behind them. Empty when it is gone.
std::string ReadPeerHost(int fd);

// Which processes are served. A plain value.
struct PeerRules {
  std::vector<uint32_t> uids;
  std::vector<uint32_t> gids;

  // True if the user or one of the groups is listed, or nothing is.
  bool Allows(const PeerProcess& peer) const;
};

// Rules that may change while they are used. Thread-safe.
class CurrentPeerRules {
 public:
  explicit CurrentPeerRules(PeerRules rules) : rules_(std::move(rules)) {}
  // Counts for connections from now on.
  void Set(PeerRules rules) {
    MutexLock lock(mutex_);
    rules_ = std::move(rules);
  }
  bool Allows(const PeerProcess& peer) const {
    MutexLock lock(mutex_);
    return rules_.Allows(peer);
  }

 private:
  mutable Mutex mutex_;
  PeerRules rules_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
