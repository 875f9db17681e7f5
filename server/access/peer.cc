#include "server/access/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "server/base/error.h"
#include "server/base/peer_host.h"

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

std::string ReadPeerHost(int fd) {
  sockaddr_storage name = {};
  socklen_t bytes = sizeof(name);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&name), &bytes) != 0) return "";
  if (name.ss_family == AF_INET) {
    char text[INET_ADDRSTRLEN] = {};
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(&name)->sin_addr, text, sizeof(text));
    return text;
  }
  if (name.ss_family != AF_INET6) return "";
  return HostOfAddress(reinterpret_cast<const sockaddr_in6*>(&name)->sin6_addr);
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
