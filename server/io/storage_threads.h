#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/base/mutex.h"
#include "server/base/request_context.h"
#include "server/io/mount_table.h"

namespace keyload {

class PoolTurn;

// A mount with steps or operations that have not ended for a while.
struct StuckMount {
  std::string mount;        // its mount point
  uint64_t operations = 0;  // steps and operations
  absl::Duration longest;   // since the oldest of them began
};

// Runs steps that may block in the kernel for ever, as opening a file of a network file system whose server is gone
// does, on threads of its own. The caller waits; its deadline or cancellation ends that, and the thread is left behind
// until the mount answers. A caller that has waited for two seconds gives up its turn in its pool (PoolTurn). A mount
// with a step that old is stuck: it has at most `share` steps under way, and more are refused. So a mount that hangs
// costs what needs it, and no more than `share` threads.
//
// Reads of tensors stay on the threads of their pools, as a thread more between them would cost time. They are noted as
// Operation; where one does not end, the threads that are held up by it give up their turns, and the caller waits until
// it ends. Thread-safe.
class StorageThreads {
 private:
  using Clock = std::chrono::steady_clock;
  struct Note {
    Clock::time_point begun;
    bool touches = true;       // the mount itself
    PoolTurn* turn = nullptr;  // of the thread; null: nothing to give up
    bool given_up = false;
  };

 public:
  struct Options {
    size_t share = 16;
    absl::Duration stuck_after = absl::Seconds(2);
  };
  explicit StorageThreads(const Options& options);
  // REQUIRES: no step is under way. A process that has some must end without this.
  ~StorageThreads();

  // What `step` returns, an absl::Status or absl::StatusOr, which touches `path` and what is beside it. It must own all
  // that it uses, as it may outlive the call. LOAD_CANCELLED or DEADLINE_EXCEEDED when the context ended first;
  // IO_ERROR when the mount is stuck and its share is used.
  template <typename Step>
  auto Run(const std::string& path, const RequestContext& context, Step step) -> decltype(step()) {
    using Result = decltype(step());
    const auto result = std::make_shared<std::optional<Result>>();
    const absl::Status status =
        RunStep(path, context, [result, step = std::move(step)]() mutable { result->emplace(step()); });
    if (!status.ok()) return status;
    return *std::move(*result);
  }

  // The mount of a file whose operations are noted; a default one notes nothing. A value.
  struct NotedMount {
    StorageThreads* storage = nullptr;
    std::string mount;
  };
  // That of a path without symlinks; `storage` may be null. Never blocks.
  static NotedMount MountOfFile(StorageThreads* storage, const std::string& resolved) {
    return storage == nullptr ? NotedMount() : NotedMount{storage, storage->mounts_.Find(resolved)};
  }

  // While it is there, the thread that made it touches a file of a mount, or waits for threads that do.
  class Operation {
   public:
    enum class Kind { kTouches, kWaits };
    explicit Operation(const NotedMount& noted, Kind kind = Kind::kTouches);
    ~Operation();
    Operation(const Operation&) = delete;

   private:
    StorageThreads* const storage_;
    const std::string mount_;
    bool is_first_ = false;  // of its thread
    std::list<Note>::iterator note_;
  };

  // The mount that `path` is on, symlinks followed; after `limit` the one that does not answer.
  std::string MountOf(const std::string& path, absl::Duration limit);

  // Never block. The latter tells the mounts with any step under way.
  std::vector<StuckMount> stuck() const { return OlderThan(options_.stuck_after); }
  std::vector<StuckMount> under_way() const { return OlderThan(absl::ZeroDuration()); }

 private:
  struct Mount {
    std::list<Clock::time_point> begun;  // steps under way, the oldest first
    std::list<Note> notes;               // operations, the oldest first
    bool told = false;                   // the log says that it is stuck
  };
  using Mounts = std::map<std::string, Mount>;  // by mount point
  struct Step;

  absl::Status RunStep(const std::string& path, const RequestContext& context, absl::AnyInvocable<void()> body);
  absl::Status Begin(const std::shared_ptr<Step>& step);
  bool IsOld(Clock::time_point begun, Clock::time_point now) const;
  bool IsStuck(const Mount& mount, Clock::time_point now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enter(Step& step, const std::string& mount) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Leave(Step& step) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // To be called when something of the mount has ended.
  void Tidy(Mounts::iterator mount) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellStuck(const std::string& name, Mount& mount) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveUpTurns() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WatchOperations();
  std::vector<StuckMount> OlderThan(absl::Duration age) const;
  void RunOnThread(Step& step);
  void Work();

  const Options options_;
  const MountTable mounts_;
  mutable Mutex mutex_;
  CondVar ready_;
  CondVar ended_;
  Mounts busy_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<Step>> queue_ ABSL_GUARDED_BY(mutex_);
  size_t idle_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t noted_ ABSL_GUARDED_BY(mutex_) = 0;  // operations
  CondVar watched_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  std::thread watch_;
};

}  // namespace keyload
