#include "server/io/storage_threads.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <system_error>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/pool_turn.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr std::chrono::milliseconds kTick(100);  // after which a caller looks at its context again

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
  std::list<absl::Time>::iterator begun;
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

bool StorageThreads::IsStuck(const Mount& mount, absl::Time now) const {
  const auto is_old = [&](absl::Time begun) { return now - begun >= options_.stuck_after; };
  return (!mount.begun.empty() && is_old(mount.begun.front())) ||
         std::any_of(mount.notes.begin(), mount.notes.end(),
                     [&](const Note& note) { return note.touches && is_old(note.begun); });
}

void StorageThreads::Enter(Step& step, const std::string& mount) {
  Leave(step);
  step.mount = step.last_mount = mount;
  std::list<absl::Time>& begun = busy_[mount].begun;
  step.begun = begun.insert(begun.end(), absl::Now());
}

void StorageThreads::Leave(Step& step) {
  if (step.mount.empty()) return;
  const auto mount = busy_.find(step.mount);
  mount->second.begun.erase(step.begun);
  Tidy(std::exchange(step.mount, ""));
}

void StorageThreads::Tidy(const std::string& name) {
  const auto found = busy_.find(name);
  Mount& mount = found->second;
  if (mount.told && !IsStuck(mount, absl::Now())) {
    Log(LogLevel::kInfo, "storage answers", {{"mount", name}});
    mount.told = false;
  }
  if (mount.begun.empty() && mount.notes.empty()) busy_.erase(found);
}

void StorageThreads::TellStuck(const std::string& name, Mount& mount) {
  if (!std::exchange(mount.told, true)) Log(LogLevel::kWarning, "storage stuck", {{"mount", name}});
}

absl::Status StorageThreads::Begin(const std::shared_ptr<Step>& step) {
  const std::string mount = mounts_.Find(step->path);
  MutexLock lock(mutex_);
  const auto busy = busy_.find(mount);
  if (busy != busy_.end() && busy->second.begun.size() >= options_.share && IsStuck(busy->second, absl::Now())) {
    const absl::Duration longest = absl::Now() - busy->second.begun.front();
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
  queue_.push_back(step);
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
      stuck = mount != busy_.end() && IsStuck(mount->second, absl::Now());
      if (stuck) TellStuck(mount->first, mount->second);
    }
    if (stuck) turn.GiveUp();
    KEYLOAD_RETURN_IF_ERROR(context.Check());
  }
}

void StorageThreads::RunOnThread(Step& step) {
  // So that a mount behind a symlink is the one that is stuck, and not the one with the symlink.
  mounts_.Follow(step.path, [&](const std::string& mount) {
    MutexLock lock(mutex_);
    if (mount != step.mount) Enter(step, mount);
  });
  try {
    step.body();
  } catch (const std::exception& thrown) {
    step.thrown = MakeError(Reason::kMemoryExhausted, StrCat(step.path, ": ", thrown.what()));
  }
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

StorageThreads::Operation::Operation(StorageThreads* storage, const std::string& mount, Kind kind)
    : storage_(storage), mount_(mount) {
  if (storage_ == nullptr) return;
  is_first_ = !std::exchange(thread_is_noted, true);
  PoolTurn* const turn = is_first_ ? PoolTurn::current() : nullptr;
  MutexLock lock(storage_->mutex_);
  std::list<Note>& notes = storage_->busy_[mount_].notes;
  note_ = notes.insert(notes.end(), {.begun = absl::Now(), .touches = kind == Kind::kTouches, .turn = turn});
  if (storage_->noted_++ == 0) storage_->watched_.NotifyAll();
}

StorageThreads::Operation::~Operation() {
  if (storage_ == nullptr) return;
  if (is_first_) thread_is_noted = false;
  Note note;
  {
    MutexLock lock(storage_->mutex_);
    note = *note_;
    storage_->busy_[mount_].notes.erase(note_);
    storage_->Tidy(mount_);
    --storage_->noted_;
  }
  if (note.given_up) note.turn->TakeBack();
}

void StorageThreads::GiveUpTurns() {
  const absl::Time now = absl::Now();
  for (auto& [name, mount] : busy_) {
    if (mount.notes.empty() || !IsStuck(mount, now)) continue;
    TellStuck(name, mount);
    for (Note& note : mount.notes) {
      if (note.turn == nullptr || note.given_up || now - note.begun < options_.stuck_after) continue;
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
  const absl::Time end = absl::Now() + limit;
  MutexLock lock(mutex_);
  while (!step->done && absl::Now() < end) ended_.WaitFor(mutex_, absl::ToChronoMilliseconds(end - absl::Now()));
  return step->last_mount;
}

std::vector<StuckMount> StorageThreads::OlderThan(absl::Duration age) const {
  std::vector<StuckMount> old;
  const absl::Time now = absl::Now();
  MutexLock lock(mutex_);
  for (const auto& [name, mount] : busy_) {
    StuckMount stuck = {.mount = name};
    const auto count = [&](absl::Time begun) {
      if (now - begun < age) return;
      ++stuck.operations;
      stuck.longest = std::max(stuck.longest, now - begun);
    };
    for (const absl::Time begun : mount.begun) count(begun);
    for (const Note& note : mount.notes) {
      if (note.touches) count(note.begun);
    }
    if (stuck.operations > 0) old.push_back(std::move(stuck));
  }
  return old;
}

}  // namespace keyload
