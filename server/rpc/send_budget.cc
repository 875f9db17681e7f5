#include "server/rpc/send_budget.h"

#include <algorithm>

namespace keyload {
namespace {

constexpr uint64_t kCopies = 2;  // of a message that is being sent
constexpr uint64_t kChunksOfFree = 8;

}  // namespace

uint64_t SendBudget::FreeOf(const std::string& peer) const {
  const auto it = used_by_.find(peer);
  const uint64_t of_peer = it == used_by_.end() ? 0 : it->second;
  return std::min(total_bytes_ - std::min(used_, total_bytes_), per_peer_bytes() - std::min(of_peer, per_peer_bytes()));
}

void SendBudget::Add(const std::string& peer, uint64_t bytes) {
  if (bytes == 0) return;
  used_by_[peer] += bytes;
  used_ += bytes;
}

bool SendBudget::Hold::TryTake(uint64_t bytes) {
  Release();
  if (bytes <= kFreeBytes) return true;
  MutexLock lock(budget_.mutex_);
  if (kCopies * bytes > budget_.FreeOf(peer_)) return false;
  budget_.Add(peer_, kCopies * bytes);
  held_ = kCopies * bytes;
  return true;
}

uint64_t SendBudget::Hold::TakeChunk(uint64_t most) {
  Release();
  MutexLock lock(budget_.mutex_);
  const uint64_t bytes = std::min(budget_.FreeOf(peer_) / kCopies / kChunksOfFree, most);
  if (bytes <= kFreeBytes) return kFreeBytes;
  budget_.Add(peer_, kCopies * bytes);
  held_ = kCopies * bytes;
  return bytes;
}

void SendBudget::Hold::Shrink(uint64_t bytes) {
  const uint64_t needed = bytes <= kFreeBytes ? 0 : kCopies * bytes;
  if (needed >= held_) return;
  const uint64_t less = held_ - needed;
  held_ = needed;
  MutexLock lock(budget_.mutex_);
  budget_.used_ -= less;
  const auto it = budget_.used_by_.find(peer_);
  if (it->second -= less; it->second == 0) budget_.used_by_.erase(it);
}

}  // namespace keyload
