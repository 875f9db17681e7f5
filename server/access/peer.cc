#include "server/access/peer.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "server/base/error.h"

namespace keyload {

absl::StatusOr<PeerProcess> ReadPeer(int fd) {
  ucred credentials = {};
  socklen_t bytes = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0) {
    return ErrnoToStatus(errno, "SO_PEERCRED", "the socket");
  }
  PeerProcess peer = {.pid = credentials.pid, .uid = credentials.uid, .gids = {credentials.gid}};
  std::vector<gid_t> groups(64);
  bytes = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  int result = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes);
  if (result != 0 && errno == ERANGE) {  // `bytes` is what it takes now
    groups.resize(bytes / sizeof(gid_t));
    result = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes);
  }
  if (result != 0) return ErrnoToStatus(errno, "SO_PEERGROUPS", "the socket");
  peer.gids.insert(peer.gids.end(), groups.begin(), groups.begin() + bytes / sizeof(gid_t));
  return peer;
}

bool PeerRules::Allows(const PeerProcess& peer) const {
  if (uids.empty() && gids.empty()) return true;
  const auto listed = [](const std::vector<uint32_t>& list, uint32_t id) {
    return std::find(list.begin(), list.end(), id) != list.end();
  };
  return listed(uids, peer.uid) ||
         std::any_of(peer.gids.begin(), peer.gids.end(), [&](uint32_t gid) { return listed(gids, gid); });
}

}  // namespace keyload
