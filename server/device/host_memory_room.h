#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/device/host_memory_limit.h"

namespace keyload {

// Asks the machine and the control groups of this process for room before host memory gets its pages. A control group
// that is full refuses nothing: whoever touches, writes or allocates one page more is killed, with every model that it
// holds. So memory is promised first. A promise is made when what is free, less a margin and all promises that are not
// kept yet, is enough for it; therefore two loads are never promised the same bytes. While promised memory is filled,
// what is free is measured again at every kStep bytes, as neighbours in the group may have taken some of it: where it
// does not suffice for the promises any more, whoever fills next is refused. Thread-safe.
class HostMemoryRoom {
 public:
  static constexpr uint64_t kStep = 64ull << 20;

  struct Options {
    std::function<std::vector<MemoryBound>()> bounds;  // as they are now; empty: not known, nothing is refused
    std::function<uint64_t()> margin;                  // what must stay free, for this process's other needs
    std::chrono::nanoseconds max_age = std::chrono::milliseconds(10);  // how long a promise relies on a measurement
  };
  explicit HostMemoryRoom(Options options);

  // Memory of one owner that may be filled. Movable; must not outlive the room. A default one refuses nothing.
  class Promise {
   public:
    Promise() = default;
    Promise(Promise&& other) noexcept;
    Promise& operator=(Promise&& other) noexcept;
    ~Promise();

    // To be called before `bytes` get their pages, and End after they have, or when that failed. What goes beyond the
    // promise is promised now. RESOURCE_EXHAUSTED says what is lacking; End is not called then. Thread-safe.
    absl::Status Begin(uint64_t bytes);
    void End(uint64_t bytes);
    // Gives back what was not begun. Thread-safe.
    void Settle();

   private:
    friend class HostMemoryRoom;
    Promise(HostMemoryRoom* room, uint64_t bytes) : room_(room), left_(bytes) {}
    HostMemoryRoom* room_ = nullptr;
    uint64_t left_ = 0;  // promised and not begun; the room's lock guards it
  };
  // RESOURCE_EXHAUSTED says what is free, and what it is kept for.
  absl::StatusOr<Promise> Ask(uint64_t bytes);

  // `reclaim` frees up to so many bytes of host memory that nobody uses. It is called with the room's lock held and
  // must not call the room. REQUIRES: nobody asks yet.
  void AddReclaimer(std::function<void(uint64_t bytes)> reclaim);

  // All bytes that are promised and have no pages yet.
  uint64_t promised() const;

 private:
  // Measures where `slack_` is too old or too small for `bytes`, and reclaims idle memory where it is too small still.
  absl::Status Secure(uint64_t bytes, bool measure) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Measure() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Refusal(uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  std::vector<std::function<void(uint64_t)>> reclaimers_;
  mutable Mutex mutex_;
  std::chrono::steady_clock::time_point measured_ ABSL_GUARDED_BY(mutex_);
  MemoryBound tightest_ ABSL_GUARDED_BY(mutex_);          // the bound that leaves least, as measured
  uint64_t margin_ ABSL_GUARDED_BY(mutex_) = 0;           // as it was then
  uint64_t begun_since_ ABSL_GUARDED_BY(mutex_) = kStep;  // bytes that were begun after the last measurement
  uint64_t promised_ ABSL_GUARDED_BY(mutex_) = 0;
  // What can be promised besides: free, less the margin and what is promised. Filling changes both alike.
  int64_t slack_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace keyload
