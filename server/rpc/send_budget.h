#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "server/base/mutex.h"

namespace keyload {

// Bytes of answers that are on their way to clients, in all and per peer: gRPC takes every message that it is given and
// keeps it until the client does, and its own ResourceQuota does not bound that. A message costs twice its size here,
// once as a message and once in gRPC's hands. Messages that are small (kFreeBytes) are not counted; there are no more
// of them than calls, which LiveCalls bounds. Thread-safe.
class SendBudget {
 public:
  static constexpr uint64_t kFreeBytes = 16 << 10;

  // One peer may have a quarter.
  explicit SendBudget(uint64_t total_bytes) : total_bytes_(total_bytes) {}
  uint64_t total_bytes() const { return total_bytes_; }
  uint64_t per_peer_bytes() const { return total_bytes_ / 4; }

  // What one call holds of it: one message at a time. Confine to one thread at a time; the budget outlives it.
  class Hold {
   public:
    Hold(SendBudget& budget, std::string peer) : budget_(budget), peer_(std::move(peer)) {}
    Hold(const Hold&) = delete;
    ~Hold() { Release(); }

    // Takes room for a message of `bytes`; false when there is none.
    [[nodiscard]] bool TryTake(uint64_t bytes);
    // Takes room for a part of a long answer and returns how large that may be: an eighth of what is free, at most
    // `most`, and always kFreeBytes. So a stream gets on whatever others do, in smaller steps.
    uint64_t TakeChunk(uint64_t most);
    // Gives back what the message does not need.
    void Shrink(uint64_t bytes);
    void Release() { Shrink(0); }

   private:
    SendBudget& budget_;
    const std::string peer_;
    uint64_t held_ = 0;
  };

 private:
  uint64_t FreeOf(const std::string& peer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Add(const std::string& peer, uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t total_bytes_;
  mutable Mutex mutex_;
  uint64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, uint64_t> used_by_ ABSL_GUARDED_BY(mutex_);  // never 0
};

}  // namespace keyload
