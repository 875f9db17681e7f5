#include "server/service/load_queue.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "server/base/error.h"
#include "server/base/no_throw.h"
#include "server/base/pool_turn.h"
#include "server/base/retry.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

// Longer waits are cut in pieces, which the condition variable's arithmetic has room for.
constexpr absl::Duration kLongestSleep = absl::Hours(1);
constexpr absl::Duration kRetry = absl::Milliseconds(100);  // after an exception

void RunTask(LoadQueue::Task& task, LoadQueue::Turn turn) {
  const absl::Status thrown = NoThrow([&] { task.run(std::move(turn)); });
  if (!thrown.ok() && task.fail) NoThrow([&] { task.fail(thrown); }).IgnoreError();
}

}  // namespace

class LoadQueue::Signal {
 public:
  void Raise() {
    MutexLock lock(mutex_);
    raised_ = true;
    changed_.NotifyOne();
  }
  // Returns when it was raised, or after `time`.
  void Wait(absl::Duration time) {
    MutexLock lock(mutex_);
    if (!raised_) changed_.WaitFor(mutex_, absl::ToChronoNanoseconds(time));
    raised_ = false;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool raised_ ABSL_GUARDED_BY(mutex_) = false;
};

LoadQueue::LoadQueue(const Options& options)
    : threads_(std::max<size_t>(options.threads, 1)),
      devices_(options.devices),
      progress_interval_(options.progress_interval),
      signal_(std::make_shared<Signal>()),
      limit_(options.limit),
      ends_(std::make_unique<Executor>(
          Executor::Options{.name = "load-end", .threads = 1, .queue_limit = std::numeric_limits<size_t>::max()})),
      executor_(std::make_unique<Executor>(
          Executor::Options{.name = "load", .threads = threads_ + 1, .queue_limit = threads_ + 1})) {
  if (devices_ != nullptr) {
    for (const std::unique_ptr<Device>& device : devices_->devices()) {
      device->account().AddListener([signal = signal_] { signal->Raise(); });
    }
  }
  watch_ = std::thread([this] { Watch(); });
}

LoadQueue::~LoadQueue() {
  Entries ended;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    ended.swap(for_memory_);
  }
  signal_->Raise();
  watch_.join();
  for (const std::unique_ptr<Entry>& entry : ended) {
    entry->on_stop.reset();
    RunTask(entry->task, {.status = MakeError(Reason::kLoadCancelled, "the server ends"), .number = entry->number});
  }
  ends_.reset();
  executor_.reset();
}

std::unique_ptr<LoadQueue::Entry> LoadQueue::MakeEntry(Task task, uint64_t number) {
  auto entry = std::make_unique<Entry>();
  std::erase_if(shares_, [](const auto& share) { return share.second.expired(); });
  std::weak_ptr<Share>& share = shares_[task.context.share()];
  entry->share = share.lock();
  if (entry->share == nullptr) share = entry->share = std::make_shared<Share>();
  entry->task = std::move(task);
  entry->number = number;
  entry->priority = entry->task.load == nullptr ? 0 : entry->task.load->priority();
  entry->on_stop.emplace(entry->task.context.stop, [signal = signal_] { signal->Raise(); });
  return entry;
}

size_t LoadQueue::waiting() const { return ready_.size() - std::min(starting_, ready_.size()) + for_memory_.size(); }

absl::Status LoadQueue::RoomToWait(const std::string& share) const {
  if (waiting() < limit_) return absl::OkStatus();
  const auto found = shares_.find(share);
  const std::shared_ptr<Share> known = found == shares_.end() ? nullptr : found->second.lock();
  const auto is_own = [&](const std::unique_ptr<Entry>& entry) { return entry->share == known; };
  const size_t own = std::count_if(ready_.begin(), ready_.end(), is_own) +
                     std::count_if(for_memory_.begin(), for_memory_.end(), is_own);
  if (own < limit_ / 8 && waiting() < 2 * limit_) return absl::OkStatus();
  return TooManyWaiting(durations_.TimeFor(waiting(), threads_));
}

absl::Status LoadQueue::RoomForTask(const std::string& share) const {
  return running_ >= threads_ ? RoomToWait(share) : absl::OkStatus();
}

absl::Status LoadQueue::CheckRoom(const std::string& share) const {
  MutexLock lock(mutex_);
  return RoomForTask(share);
}

absl::Status LoadQueue::Submit(Task task) {
  {
    MutexLock lock(mutex_);
    if (stopping_) return MakeError(Reason::kLoadCancelled, "the server ends");
    if (!task.always) KEYLOAD_RETURN_IF_ERROR(RoomForTask(task.context.share()));
    ready_.push_back(MakeEntry(std::move(task), ++last_number_));
    moved_ = true;
    Dispatch();
    if (ready_.size() <= starting_) return absl::OkStatus();
  }
  signal_->Raise();
  return absl::OkStatus();
}

absl::Status LoadQueue::AwaitMemory(Task task, uint64_t number, std::shared_ptr<const LoadPlan> plan,
                                    absl::Status refused) {
  {
    MutexLock lock(mutex_);
    if (stopping_) return MakeError(Reason::kLoadCancelled, "the server ends");
    KEYLOAD_RETURN_IF_ERROR(RoomToWait(task.context.share()));
    std::unique_ptr<Entry> entry = MakeEntry(std::move(task), number);
    entry->plan = std::move(plan);
    entry->refused = std::move(refused);
    entry->since = Deadline::Clock::now();
    for_memory_.push_back(std::move(entry));
    moved_ = true;
  }
  signal_->Raise();
  return absl::OkStatus();
}

void LoadQueue::Changed() {
  {
    MutexLock lock(mutex_);
    for (const Entries* waiting : {&ready_, &for_memory_}) {
      for (const std::unique_ptr<Entry>& entry : *waiting) {
        if (entry->task.load != nullptr) entry->priority = entry->task.load->priority();
      }
    }
    moved_ = true;
  }
  signal_->Raise();
}

size_t LoadQueue::limit() const {
  MutexLock lock(mutex_);
  return limit_;
}

void LoadQueue::set_limit(size_t limit) {
  MutexLock lock(mutex_);
  limit_ = limit;
}

size_t LoadQueue::queued() const {
  MutexLock lock(mutex_);
  return waiting() - for_memory_.size();
}

size_t LoadQueue::waiting_for_memory() const {
  MutexLock lock(mutex_);
  return for_memory_.size();
}

void LoadQueue::SortReady() {
  ready_.sort([](const auto& a, const auto& b) { return GoesFirst(*a, *b); });
  for (const std::unique_ptr<Entry>& entry : ready_) entry->round = 0;  // stays without memory for the counts
  NoThrow([this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    absl::flat_hash_map<const Share*, size_t> earlier;
    for (const std::unique_ptr<Entry>& entry : ready_) {
      entry->round = entry->share->running + earlier[entry->share.get()]++;
    }
  }).IgnoreError();
  ready_.sort([](const auto& a, const auto& b) { return RunsFirst(*a, *b); });
}

std::unique_ptr<LoadQueue::Entry> LoadQueue::TakeFirst() {
  if (ready_.empty() || running_ > threads_ + 1) return nullptr;  // more may run after one has waited for a mount
  SortReady();
  const auto first = running_ > threads_ ? FirstToSpare() : ready_.begin();
  if (first == ready_.end()) return nullptr;
  std::unique_ptr<Entry> entry = std::move(*first);
  ready_.erase(first);
  ++entry->share->running;
  entry->share->turn = ++last_turn_;
  moved_ = true;
  return entry;
}

LoadQueue::Entries::iterator LoadQueue::FirstToSpare() {
  size_t callers = 0;
  for (const auto& [name, known] : shares_) {
    const std::shared_ptr<Share> share = known.lock();
    callers += share != nullptr && share->running > 0;
  }
  if (callers != 1) return ready_.end();
  return std::find_if(ready_.begin(), ready_.end(), [](const auto& entry) { return entry->share->running == 0; });
}

void LoadQueue::Dispatch() {
  const auto may_spare = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return running_ == threads_ && starting_ == 0 && FirstToSpare() != ready_.end();
  };
  while ((running_ < threads_ && ready_.size() > starting_) || may_spare()) {
    // There is room: a thread counts as running until it takes nothing more. What throws is tried again later.
    const absl::Status started = NoThrow([this] { return executor_->Submit({.run = [this] { Work(); }}); });
    if (!started.ok()) return;
    ++running_;
    ++starting_;
  }
}

// A load that waits for a mount does not count as one that runs, of all or of its caller, nor does its thread.
class LoadQueue::LoadTurn : public PoolTurn {
 public:
  explicit LoadTurn(LoadQueue& queue) : queue_(queue), scope_(*this) {}

  void set_share(std::shared_ptr<Share> share) { share_ = std::move(share); }

  void GiveUp() override {
    scope_.before()->GiveUp();
    {
      MutexLock lock(queue_.mutex_);
      --queue_.running_;
      --share_->running;
      queue_.Dispatch();
    }
    queue_.signal_->Raise();
  }
  void TakeBack() override {
    scope_.before()->TakeBack();
    MutexLock lock(queue_.mutex_);
    ++queue_.running_;
    ++share_->running;
  }

 private:
  LoadQueue& queue_;
  const Scope scope_;
  std::shared_ptr<Share> share_;  // of the task that runs
};

void LoadQueue::Work() {
  LoadTurn turn(*this);
  std::unique_ptr<Entry> entry;
  {
    MutexLock lock(mutex_);
    --starting_;
    entry = TakeFirst();
    if (entry == nullptr) --running_;
  }
  while (entry != nullptr) {
    signal_->Raise();  // places are others now
    entry->on_stop.reset();
    const std::shared_ptr<Share> share = entry->share;
    turn.set_share(share);
    const auto start = std::chrono::steady_clock::now();
    RunTask(entry->task, {.status = absl::OkStatus(), .number = entry->number, .memory = std::move(entry->memory)});
    entry.reset();
    MutexLock lock(mutex_);
    --share->running;
    durations_.Add(absl::FromChrono(std::chrono::steady_clock::now() - start));
    entry = TakeFirst();
    if (entry == nullptr) --running_;
  }
}

void LoadQueue::Watch() {
  Deadline next;
  while (true) {
    signal_->Wait(std::min(next.left(), kLongestSleep));
    {
      MutexLock lock(mutex_);
      if (stopping_) return;
    }
    if (!NoThrow([&] { next = Look(); }).ok()) next = Deadline::After(kRetry);
  }
}

Deadline LoadQueue::Look() {
  Deadline next;
  MutexLock lock(mutex_);
  TakeEnded(ready_, next);
  TakeEnded(for_memory_, next);
  if (!ended_.empty() && !ends_->TrySubmit([this] { TellEnded(); })) next = std::min(next, Deadline::After(kRetry));
  GiveMemory();
  Dispatch();
  if (running_ < threads_ && ready_.size() > starting_) next = std::min(next, Deadline::After(kRetry));
  if (moved_ && tell_after_.passed()) {
    TellPlaces();
    moved_ = false;
    tell_after_ = Deadline::After(progress_interval_);
  }
  if (moved_) next = std::min(next, tell_after_);
  return next;
}

void LoadQueue::TellEnded() {
  while (true) {
    Entries one;
    {
      MutexLock lock(mutex_);
      if (ended_.empty()) return;
      one.splice(one.end(), ended_, ended_.begin());
    }
    Entry& entry = *one.front();
    entry.on_stop.reset();
    entry.memory.clear();
    RunTask(entry.task, {.status = entry.refused, .number = entry.number});
  }
}

void LoadQueue::TakeEnded(Entries& waiting, Deadline& next) {
  for (auto it = waiting.begin(); it != waiting.end();) {
    Entry& entry = **it;
    const absl::Status status = entry.task.context.Check();
    const bool waits_for_memory = entry.plan != nullptr;
    const absl::Duration wait = waits_for_memory ? entry.task.load->memory_wait() : absl::InfiniteDuration();
    const Deadline until = Deadline::After(wait, entry.since);
    if (status.ok() && !until.passed()) {
      next = std::min({next, until, entry.task.context.end()});
      ++it;
      continue;
    }
    entry.refused =
        status.ok() ? Annotate(entry.refused, StrCat("waited ", absl::FormatDuration(wait), " for memory")) : status;
    ended_.splice(ended_.end(), waiting, it++);
    moved_ = true;
  }
}

void LoadQueue::TellPlaces() {
  SortReady();
  for (const auto& [waiting, phase] : {std::pair(&ready_, "queue"), std::pair(&for_memory_, "memory")}) {
    size_t leaving = waiting == &ready_ ? starting_ : 0;  // threads are about to take them
    uint32_t place = 0;
    for (const std::unique_ptr<Entry>& entry : *waiting) {
      if (leaving > 0) {
        --leaving;
        continue;
      }
      ++place;
      if (entry->task.load == nullptr || entry->told == place) continue;
      entry->told = place;
      entry->task.load->Progress({.phase = phase, .queue_position = place});
    }
  }
}

}  // namespace keyload
