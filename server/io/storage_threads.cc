#include "server/io/storage_threads.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "server/base/deadline.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/no_throw.h"
#include "server/base/pool_turn.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr std::chrono::milliseconds kTick(100);  // after which a caller looks at its context again

// A line of the log is worth no thread, where there is no memory for it.
void LogMount(LogLevel level, std::string_view event, const std::string& mount) noexcept {
  NoThrow([&] { Log(level, event, {{"mount", mount}}); }).IgnoreError();
}

// Of two operations of one thread the first is the one that gives the thread's turn up.
thread_local bool thread_is_noted = false;

// Gives the thread's turn up once, and takes it back at the end.
class TurnWhileWaiting {
 public:
  ~TurnWhileWaiting() {
    if (given_up_) turn_->TakeBack();
  }
  void GiveUp() {
    if (turn_ == nullptr || given_up_) return;
    turn_->GiveUp();
    given_up_ = true;
  }

 private:
  PoolTurn* const turn_ = PoolTurn::current();
  bool given_up_ = false;
};

}  // namespace

struct StorageThreads::Step {
  std::string path;
  absl::AnyInvocable<void()> body;
  bool done = false;
  absl::Status thrown;     // by the body
  std::string mount;       // that it is on now; empty: on none
  std::string last_mount;  // the same, also after its end
  std::list<Clock::time_point>::iterator begun;
};

StorageThreads::StorageThreads(const Options& options) : options_(options) {
  watch_ = std::thread([this] { WatchOperations(); });
  pthread_setname_np(watch_.native_handle(), "storage-watch");
}

StorageThreads::~StorageThreads() {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  ready_.NotifyAll();
  watched_.NotifyAll();
  watch_.join();
  for (std::thread& thread : threads) thread.join();
}

bool StorageThreads::IsOld(Clock::time_point begun, Clock::time_point now) const {
  return absl::FromChrono(now - begun) >= options_.stuck_after;
}

bool StorageThreads::IsStuck(const Mount& mount, Clock::time_point now) const {
  const auto is_old = [&](Clock::time_point begun) { return IsOld(begun, now); };
  return (!mount.begun.empty() && is_old(mount.begun.front())) ||
         std::any_of(mount.notes.begin(), mount.notes.end(),
                     [&](const Note& note) { return note.touches && is_old(note.begun); });
}

// What can throw comes first: a step is on the mounts that it says.
void StorageThreads::Enter(Step& step, const std::string& mount) {
  std::list<Clock::time_point> now = {Clock::now()};
  std::string name = mount;
  std::string last = mount;
  std::list<Clock::time_point>& begun = busy_[mount].begun;
  Leave(step);
  step.mount = std::move(name);
  step.last_mount = std::move(last);
  begun.splice(begun.end(), now);
  step.begun = std::prev(begun.end());
}

void StorageThreads::Leave(Step& step) noexcept {
  if (step.mount.empty()) return;
  const auto mount = busy_.find(step.mount);
  mount->second.begun.erase(step.begun);
  Tidy(mount);
  step.mount.clear();
}

void StorageThreads::Tidy(Mounts::iterator found) noexcept {
  Mount& mount = found->second;
  if (mount.told && !IsStuck(mount, Clock::now())) {
    LogMount(LogLevel::kInfo, "storage answers", found->first);
    mount.told = false;
  }
  if (mount.begun.empty() && mount.notes.empty()) busy_.erase(found);
}

void StorageThreads::TellStuck(const std::string& name, Mount& mount) noexcept {
  if (!std::exchange(mount.told, true)) LogMount(LogLevel::kWarning, "storage stuck", name);
}

absl::Status StorageThreads::Begin(const std::shared_ptr<Step>& step) {
  const std::string mount = mounts_.Find(step->path);
  MutexLock lock(mutex_);
  const auto busy = busy_.find(mount);
  const Clock::time_point now = Clock::now();
  if (busy != busy_.end() && busy->second.begun.size() >= options_.share && IsStuck(busy->second, now)) {
    const absl::Duration longest = absl::FromChrono(now - busy->second.begun.front());
    return MakeError(Reason::kIoError,
                     StrCat(step->path, ": the file system mounted at ", mount, " has not answered for ",
                            absl::ToInt64Seconds(longest), " s, and ", busy->second.begun.size(),
                            " operations wait for it already: try again later"),
                     {{"path", step->path}, {"mount", mount}});
  }
  if (queue_.size() >= idle_) {
    try {
      threads_.emplace_back([this] { Work(); });
    } catch (const std::system_error&) {
      return TooManyWaiting();
    }
    pthread_setname_np(threads_.back().native_handle(), "storage");
  }
  Enter(*step, mount);
  absl::Cleanup leave = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { Leave(*step); };
  queue_.push_back(step);
  std::move(leave).Cancel();
  ready_.NotifyOne();
  return absl::OkStatus();
}

absl::Status StorageThreads::RunStep(const std::string& path, const RequestContext& context,
                                     absl::AnyInvocable<void()> body) {
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  const auto step =
      std::make_shared<Step>(Step{.path = path, .body = std::move(body), .mount = {}, .last_mount = {}, .begun = {}});
  KEYLOAD_RETURN_IF_ERROR(Begin(step));
  TurnWhileWaiting turn;
  while (true) {
    bool stuck = false;
    {
      MutexLock lock(mutex_);
      if (!step->done) ended_.WaitFor(mutex_, kTick);
      if (step->done) return step->thrown;
      const auto mount = busy_.find(step->mount);
      stuck = mount != busy_.end() && IsStuck(mount->second, Clock::now());
      if (stuck) TellStuck(mount->first, mount->second);
    }
    if (stuck) turn.GiveUp();
    KEYLOAD_RETURN_IF_ERROR(context.Check());
  }
}

void StorageThreads::RunOnThread(Step& step) {
  step.thrown = NoThrow([&] {
    // So that a mount behind a symlink is the one that is stuck, and not the one with the symlink.
    mounts_.Follow(step.path, [&](const std::string& mount) {
      MutexLock lock(mutex_);
      if (mount != step.mount) Enter(step, mount);
    });
    step.body();
  });
  step.body = nullptr;
}

void StorageThreads::Work() {
  while (true) {
    std::shared_ptr<Step> step;
    {
      MutexLock lock(mutex_);
      ++idle_;
      while (queue_.empty() && !stopping_) ready_.Wait(mutex_);
      --idle_;
      if (queue_.empty()) return;
      step = std::move(queue_.front());
      queue_.pop_front();
    }
    RunOnThread(*step);
    MutexLock lock(mutex_);
    Leave(*step);
    step->done = true;
    ended_.NotifyAll();
  }
}

StorageThreads::Operation::Operation(const NotedMount& noted, Kind kind)
    : storage_(noted.storage), mount_(noted.mount) {
  if (storage_ == nullptr) return;
  is_first_ = !thread_is_noted;
  PoolTurn* const turn = is_first_ ? PoolTurn::current() : nullptr;
  MutexLock lock(storage_->mutex_);
  std::list<Note>& notes = storage_->busy_[mount_].notes;
  note_ = notes.insert(notes.end(), {.begun = Clock::now(), .touches = kind == Kind::kTouches, .turn = turn});
  if (storage_->noted_++ == 0) storage_->watched_.NotifyAll();
  thread_is_noted = true;  // nothing throws any more
}

StorageThreads::Operation::~Operation() {
  if (storage_ == nullptr) return;
  if (is_first_) thread_is_noted = false;
  Note note;
  {
    MutexLock lock(storage_->mutex_);
    note = *note_;
    const auto mount = storage_->busy_.find(mount_);
    mount->second.notes.erase(note_);
    storage_->Tidy(mount);
    --storage_->noted_;
  }
  if (note.given_up) note.turn->TakeBack();
}

void StorageThreads::GiveUpTurns() {
  const Clock::time_point now = Clock::now();
  for (auto& [name, mount] : busy_) {
    if (mount.notes.empty() || !IsStuck(mount, now)) continue;
    TellStuck(name, mount);
    for (Note& note : mount.notes) {
      if (note.turn == nullptr || note.given_up || !IsOld(note.begun, now)) continue;
      note.turn->GiveUp();
      note.given_up = true;
    }
  }
}

void StorageThreads::WatchOperations() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    if (noted_ == 0) {
      watched_.Wait(mutex_);
    } else {
      watched_.WaitFor(mutex_, absl::ToChronoNanoseconds(options_.stuck_after / 4));
      GiveUpTurns();
    }
  }
}

std::string StorageThreads::MountOf(const std::string& path, absl::Duration limit) {
  const auto step =
      std::make_shared<Step>(Step{.path = path, .body = [] {}, .mount = {}, .last_mount = {}, .begun = {}});
  if (!Begin(step).ok()) return mounts_.Find(path);
  const Deadline end = Deadline::After(limit);
  MutexLock lock(mutex_);
  while (!step->done && !end.passed()) ended_.WaitFor(mutex_, absl::ToChronoMilliseconds(end.left()));
  return step->last_mount;
}

std::vector<StuckMount> StorageThreads::OlderThan(absl::Duration age) const {
  std::vector<StuckMount> old;
  const Clock::time_point now = Clock::now();
  MutexLock lock(mutex_);
  for (const auto& [name, mount] : busy_) {
    StuckMount stuck = {.mount = name};
    const auto count = [&](Clock::time_point begun) {
      const absl::Duration since = absl::FromChrono(now - begun);
      if (since < age) return;
      ++stuck.operations;
      stuck.longest = std::max(stuck.longest, since);
    };
    for (const Clock::time_point begun : mount.begun) count(begun);
    for (const Note& note : mount.notes) {
      if (note.touches) count(note.begun);
    }
    if (stuck.operations > 0) old.push_back(std::move(stuck));
  }
  return old;
}

}  // namespace keyload
