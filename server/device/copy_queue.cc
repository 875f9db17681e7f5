#include "server/device/copy_queue.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "server/base/error.h"
#include "server/base/no_throw.h"

namespace keyload {
namespace {

// Small enough that stopping is prompt, large enough that the checks cost nothing.
constexpr size_t kSliceBytes = 4u << 20;

// A later time than this is as good as never, and does not overflow the clock.
constexpr double kLongestWaitSeconds = 3600.0 * 24 * 365;

absl::Status Cancelled() { return MakeError(Reason::kLoadCancelled, "the device was closed before the copy ended"); }

}  // namespace

CopyQueue::CopyQueue(std::string thread_name, uint64_t bytes_per_second)
    : thread_name_(thread_name.substr(0, 15)), bytes_per_second_(bytes_per_second) {}

CopyQueue::~CopyQueue() {
  std::thread thread;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    thread = std::move(thread_);
  }
  changed_.NotifyAll();
  if (thread.joinable()) thread.join();
}

void CopyQueue::Submit(Copy copy) {
  {
    MutexLock lock(mutex_);
    if (!thread_.joinable() && !stopping_) {  // first: without a thread nothing is queued
      thread_ = std::thread([this] { Work(); });
      pthread_setname_np(thread_.native_handle(), thread_name_.c_str());
    }
    queue_.push_back(std::move(copy));
  }
  changed_.NotifyAll();
}

void CopyQueue::Work() {
  while (true) {
    Copy copy;
    bool stopping;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stopping_) changed_.Wait(mutex_);
      if (queue_.empty()) return;
      stopping = stopping_;
      copy = std::move(queue_.front());
      queue_.pop_front();
    }
    absl::Status status = std::move(copy.refused);
    if (status.ok()) status = stopping ? Cancelled() : Run(copy);
    // Whoever waits counts on being called; what it does then is little, and its own affair.
    NoThrow([&] { copy.done(std::move(status)); }).IgnoreError();
  }
}

absl::Status CopyQueue::Run(const Copy& copy) {
  const Clock::time_point start = std::max(Clock::now(), link_free_at_);
  for (size_t copied = 0; copied < copy.source.size();) {
    const size_t size = std::min(kSliceBytes, copy.source.size() - copied);
    std::memcpy(copy.destination + copied, copy.source.data() + copied, size);
    copied += size;
    Clock::time_point due;
    if (bytes_per_second_ > 0) {
      const double seconds = static_cast<double>(copied) / static_cast<double>(bytes_per_second_);
      due = start + std::chrono::duration_cast<Clock::duration>(
                        std::chrono::duration<double>(std::min(seconds, kLongestWaitSeconds)));
      link_free_at_ = due;
    }
    if (!WaitUntil(due)) return Cancelled();
  }
  return absl::OkStatus();
}

bool CopyQueue::WaitUntil(Clock::time_point time) {
  MutexLock lock(mutex_);
  while (!stopping_) {
    const Clock::time_point now = Clock::now();
    if (now >= time) return true;
    changed_.WaitFor(mutex_, time - now);
  }
  return false;
}

}  // namespace keyload
