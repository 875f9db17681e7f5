#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/base/executor.h"
#include "server/base/mutex.h"
#include "server/base/request_context.h"
#include "server/device/device.h"
#include "server/load/transfer.h"
#include "server/plan/load_plan.h"
#include "server/service/recent_durations.h"
#include "server/service/shared_load.h"

namespace keyload {

// The threads of loads, and what waits for them: in one bounded queue for a thread, or for memory of a device without a
// thread. Larger priorities go first. Among equal ones callers take turns (Caller::share): a caller of whose tasks none
// runs goes before one of whose tasks one runs, and the tasks of one caller run in the order in which they came. One
// caller alone uses all threads, and then one more thread is there for another one, which so never waits for the first.
// What is cancelled or too late leaves the queue at once. Thread-safe.
class LoadQueue {
 public:
  struct Options {
    size_t threads = 1;  // and one to spare, as above
    // What waits, for threads and for memory together, beyond what runs. A caller of whose tasks less than an eighth of
    // this waits may add one up to twice the limit, so that nobody fills the queue for others.
    size_t limit = 64;
    DeviceSet* devices = nullptr;                          // null: nothing waits for memory
    absl::Duration progress_interval = kProgressInterval;  // between two messages about moving up
  };
  // What a task is called with.
  struct Turn {
    absl::Status status;                    // OK: go on. Else why the waiting ended; on a thread of the queue's own
    uint64_t number = 0;                    // of the task, in the order of arrival
    std::vector<MemoryReservation> memory;  // what AwaitMemory waited for
  };
  struct Task {
    RequestContext context;              // ends the waiting
    std::shared_ptr<SharedLoad> load;    // whose priority counts, and which hears of its place; null: priority 0
    absl::AnyInvocable<void(Turn)> run;  // called once
    // Called when an exception leaves `run`, to answer whoever waits; empty: `run` lets none out.
    absl::AnyInvocable<void(const absl::Status&)> fail = {};
    bool always = false;  // taken though the queue is full
  };

  explicit LoadQueue(const Options& options);
  // Ends what waits for memory with LOAD_CANCELLED, runs what waits for a thread, then joins. No task may be submitted
  // from then on.
  ~LoadQueue();

  // Runs the task on a thread in its turn. LOAD_QUEUE_FULL says after what time there may be room; the task is not
  // called then. Never blocks.
  absl::Status Submit(Task task);
  // What Submit would say now to a task whose context has this share.
  absl::Status CheckRoom(const std::string& share) const;
  // Reserves the plan's memory for task `number`, at once or not at all. DEVICE_OUT_OF_MEMORY also when a task that
  // goes first waits for memory of one of the plan's devices.
  absl::StatusOr<std::vector<MemoryReservation>> Reserve(const LoadPlan& plan, uint64_t number, const SharedLoad& load);
  // For a task that ran and got `refused` from Reserve: it is called again, on a thread, when the memory of the plan is
  // reserved for it, or with `refused` when load->memory_wait() has passed. Others that wait for the same devices and
  // come later get nothing before. LOAD_QUEUE_FULL; the task is not called then. Never blocks.
  absl::Status AwaitMemory(Task task, uint64_t number, std::shared_ptr<const LoadPlan> plan, absl::Status refused);
  // To be called when the priority, memory_wait or deadline of a load that may wait here has grown.
  void Changed();

  size_t threads() const { return threads_; }
  size_t limit() const;
  // What waits already stays, be it more than `limit`.
  void set_limit(size_t limit);
  size_t queued() const;              // waiting for a thread
  size_t waiting_for_memory() const;  // without a thread

 private:
  // Wakes the queue's own thread. A lock of its own, behind all others: it is raised by whoever stops a load or frees
  // memory, and outlives the queue for them.
  class Signal;
  class LoadTurn;
  struct Share {  // of one caller
    size_t running = 0;
    uint64_t turn = 0;  // the latest one, of all that were taken
  };
  struct Entry {
    Task task;
    std::shared_ptr<Share> share;
    uint64_t number = 0;
    int32_t priority = 0;
    size_t round = 0;                      // how many tasks of the same caller go first
    uint32_t told = 0;                     // the place that the load heard last
    std::shared_ptr<const LoadPlan> plan;  // waits for its memory
    absl::Status refused;
    Deadline::Clock::time_point since;  // it waits for memory
    std::vector<MemoryReservation> memory;
    std::optional<std::stop_callback<std::function<void()>>> on_stop;
  };
  using Entries = std::list<std::unique_ptr<Entry>>;

  static bool GoesFirst(const Entry& a, const Entry& b) {
    return a.priority != b.priority ? a.priority > b.priority : a.number < b.number;
  }
  // The same with turns: fewer tasks of the same caller before it, then the caller whose turn is the longest ago.
  static bool RunsFirst(const Entry& a, const Entry& b) {
    if (a.priority != b.priority) return a.priority > b.priority;
    return std::tuple(a.round, a.share->turn, a.number) < std::tuple(b.round, b.share->turn, b.number);
  }
  std::unique_ptr<Entry> MakeEntry(Task task, uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t waiting() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RoomToWait(const std::string& share) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RoomForTask(const std::string& share) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sorts ready_ as it will run.
  void SortReady() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::unique_ptr<Entry> TakeFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The first task for the thread to spare: of a caller of whose tasks none runs, while all that run are of one other.
  Entries::iterator FirstToSpare() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Dispatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A thread: what waits, until nothing does.
  void Work();
  // Tells the entries in ended_, on the thread of ends_.
  void TellEnded();
  // The queue's own thread.
  void Watch();
  // Serves what waits; returns when it must be looked at again without a signal.
  Deadline Look();
  void TakeEnded(Entries& waiting, Deadline& next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ReserveFor(Entry& entry) const;
  void GiveMemory() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellPlaces() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t threads_;
  DeviceSet* const devices_;
  const absl::Duration progress_interval_;
  const std::shared_ptr<Signal> signal_;

  mutable Mutex mutex_;  // held while loads hear of their places, so that none hears of one that it has left
  size_t limit_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;   // threads at work; all of them while something is in ready_
  size_t starting_ ABSL_GUARDED_BY(mutex_) = 0;  // of those: that have not taken their first task out of ready_ yet
  uint64_t last_turn_ ABSL_GUARDED_BY(mutex_) = 0;
  Entries ready_ ABSL_GUARDED_BY(mutex_);
  Entries ended_ ABSL_GUARDED_BY(mutex_);  // to be told
  std::map<std::string, std::weak_ptr<Share>> shares_ ABSL_GUARDED_BY(mutex_);
  Entries for_memory_ ABSL_GUARDED_BY(mutex_);
  bool moved_ ABSL_GUARDED_BY(mutex_) = false;  // places may be others than was told
  Deadline tell_after_ ABSL_GUARDED_BY(mutex_) = Deadline(Deadline::Clock::time_point::min());
  RecentDurations durations_ ABSL_GUARDED_BY(mutex_);  // of what ran

  std::unique_ptr<Executor> ends_;      // what ended while it waited: that may block on files
  std::unique_ptr<Executor> executor_;  // never queues: it is used when one of its threads is free
  std::thread watch_;
};

}  // namespace keyload
