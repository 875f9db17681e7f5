#include "server/rpc/connection_table.h"

#include <sys/stat.h>

#include <utility>
#include <vector>

namespace keyload {
namespace {

constexpr std::chrono::milliseconds kLookEvery(20);

}  // namespace

ConnectionTable::Admission ConnectionTable::Admit(int fd, const std::string& peer, const Limits& limits) {
  Forget(fd);  // the number is free again, so the connection that had it has ended
  Admission admission = CheckLimits(peer, limits);
  if (admission != Admission::kAdmitted) {
    ForgetEnded();
    admission = CheckLimits(peer, limits);
  }
  struct stat info = {};
  if (admission == Admission::kAdmitted && fstat(fd, &info) == 0) {
    connections_.emplace(fd, Connection{.device = info.st_dev, .inode = info.st_ino, .peer = peer});
    ++of_peer_[peer];
  }
  return admission;
}

ConnectionTable::Admission ConnectionTable::CheckLimits(const std::string& peer, const Limits& limits) const {
  if (connections_.size() >= limits.total) return Admission::kTooMany;
  const auto it = of_peer_.find(peer);
  const size_t of_peer = it == of_peer_.end() ? 0 : it->second;
  return of_peer >= limits.per_peer ? Admission::kTooManyOfPeer : Admission::kAdmitted;
}

void ConnectionTable::Forget(int fd) {
  const auto it = connections_.find(fd);
  if (it == connections_.end()) return;
  if (const auto count = of_peer_.find(it->second.peer); --count->second == 0) of_peer_.erase(count);
  connections_.erase(it);
}

void ConnectionTable::ForgetEnded() {
  const auto now = std::chrono::steady_clock::now();
  if (now < next_look_) return;
  next_look_ = now + kLookEvery;
  std::vector<int> ended;
  for (const auto& [fd, connection] : connections_) {
    struct stat info = {};
    const bool open = fstat(fd, &info) == 0 && info.st_dev == connection.device && info.st_ino == connection.inode;
    if (!open) ended.push_back(fd);
  }
  for (const int fd : ended) Forget(fd);
}

}  // namespace keyload
