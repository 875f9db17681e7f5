#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "server/base/deadline.h"
#include "server/base/heap_account.h"

namespace keyload {

// A deadline that moves outwards when somebody with more time joins those who wait. Thread-safe.
class SharedDeadline {
 public:
  explicit SharedDeadline(Deadline deadline) : time_(deadline.time()) {}
  void Extend(Deadline deadline);
  Deadline get() const { return Deadline(time_.load()); }

 private:
  std::atomic<Deadline::Clock::time_point> time_;
};

// Who asked for something, for the log. A value; its strings are bounded and may be anything.
struct Caller {
  std::string name;         // whom the server took them for, "token:ci"; empty: it did not ask
  std::string peer;         // "unix:", "ipv4:127.0.0.1:40312"
  std::string traceparent;  // a valid W3C one; empty: none was sent

  // Whose share of the threads and queues a call takes: callers with one name on one machine are one, however many
  // connections they open. Processes that come through a Unix socket without a token are one too: their connections do
  // not say which they are.
  std::string share() const;
};

// Passed by const reference to every call that can take long; such calls check it at least once per I/O block.
struct RequestContext {
  std::stop_token stop;                                   // the caller went away or cancelled
  Deadline deadline;                                      // the caller's
  std::shared_ptr<const SharedDeadline> shared_deadline;  // of all callers of one load, instead of `deadline`

  std::shared_ptr<const Caller> caller;  // who asked, or of a shared load who started it; null: nobody
  std::shared_ptr<RequestHeap> heap;     // what the work takes is counted here; null: it is not counted

  // OK, or LOAD_CANCELLED, or DEADLINE_EXCEEDED. Thread-safe, never blocks.
  absl::Status Check() const;
  // RequestHeap::Take. Thread-safe.
  absl::Status TakeHeap(uint64_t bytes, std::string_view what) const {
    return heap == nullptr ? absl::OkStatus() : heap->Take(bytes, what);
  }
  // Caller::share; empty: nobody asked.
  std::string share() const { return caller == nullptr ? std::string() : caller->share(); }
  // The deadline that counts now; a shared one may be later the next time.
  Deadline end() const { return shared_deadline == nullptr ? deadline : shared_deadline->get(); }
};

// Check() of a context now and then, for loops over short steps. Confine to one thread.
class PeriodicCheck {
 public:
  explicit PeriodicCheck(const RequestContext* context) : context_(context) {}  // null: always OK
  // Asks the context after every 64 units of cost; a unit is about a microsecond's work.
  absl::Status Check(uint64_t cost = 1) {
    if (context_ == nullptr || (cost_ += cost) < kInterval) return absl::OkStatus();
    cost_ = 0;
    return context_->Check();
  }

 private:
  static constexpr uint64_t kInterval = 64;

  const RequestContext* const context_;
  uint64_t cost_ = 0;
};

}  // namespace keyload
