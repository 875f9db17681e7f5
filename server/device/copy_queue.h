#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <thread>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "server/base/mutex.h"

namespace keyload {

// Copies between host addresses on one thread of its own, first in, first out. Thread-safe.
class CopyQueue {
 public:
  struct Copy {
    absl::Status refused;  // not OK: nothing is copied, and `done` gets this
    std::byte* destination = nullptr;
    std::span<const std::byte> source;  // as many bytes must be writable at `destination`
    absl::AnyInvocable<void(absl::Status)> done;
  };

  // `bytes_per_second` 0 means as fast as memory. The thread starts with the first copy.
  CopyQueue(std::string thread_name, uint64_t bytes_per_second);
  // Fails what is queued or under way with LOAD_CANCELLED, then joins. No Submit from then on.
  ~CopyQueue();

  // Queues `copy`; its `done` runs exactly once, on the queue's thread and with no lock held. Never blocks on a copy.
  // Throws, and calls nothing, when there is no memory or the system gives no thread.
  void Submit(Copy copy);

 private:
  using Clock = std::chrono::steady_clock;

  void Work();
  absl::Status Run(const Copy& copy);
  // False when the queue is stopping.
  bool WaitUntil(Clock::time_point time);

  const std::string thread_name_;
  const uint64_t bytes_per_second_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<Copy> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_ ABSL_GUARDED_BY(mutex_);
  Clock::time_point link_free_at_;  // only the queue's thread uses it
};

}  // namespace keyload
