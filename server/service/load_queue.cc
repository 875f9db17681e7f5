#include "server/service/load_queue.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/base/no_throw.h"
#include "server/base/retry.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

// What a clock that was set back can delay.
constexpr absl::Duration kLongestSleep = absl::Minutes(1);
constexpr absl::Duration kRetry = absl::Milliseconds(100);  // after an exception

using DeviceNames = absl::flat_hash_set<std::string>;

bool Shares(const LoadPlan& plan, const DeviceNames& devices) {
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    if (plan.reserve_bytes[i] > 0 && devices.contains(plan.devices[i])) return true;
  }
  return false;
}

void AddDeviceNames(const LoadPlan& plan, DeviceNames& devices) {
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    if (plan.reserve_bytes[i] > 0) devices.insert(plan.devices[i]);
  }
}

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
      executor_(
          std::make_unique<Executor>(Executor::Options{.name = "load", .threads = threads_, .queue_limit = threads_})) {
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
  return running_ == threads_ ? RoomToWait(share) : absl::OkStatus();
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

absl::StatusOr<std::vector<MemoryReservation>> LoadQueue::Reserve(const LoadPlan& plan, uint64_t number,
                                                                  const SharedLoad& load) {
  MutexLock lock(mutex_);
  for (const std::unique_ptr<Entry>& entry : for_memory_) {
    const int32_t priority = load.priority();
    if (entry->priority < priority || (entry->priority == priority && entry->number > number)) continue;
    DeviceNames devices;
    AddDeviceNames(*entry->plan, devices);
    for (size_t i = 0; i < plan.devices.size(); ++i) {
      if (plan.reserve_bytes[i] == 0 || !devices.contains(plan.devices[i])) continue;
      const MemoryState state = devices_->Find(plan.devices[i])->account().state();
      return MakeError(Reason::kDeviceOutOfMemory,
                       StrCat(plan.devices[i], ": another load that goes first waits for its memory"),
                       {{"device", plan.devices[i]},
                        {"requested_bytes", StrCat(plan.reserve_bytes[i])},
                        {"free_bytes", StrCat(state.free())},
                        {"capacity_bytes", StrCat(state.capacity)}});
    }
  }
  return ReserveForPlan(plan, *devices_);
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
    entry->since = absl::Now();
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
  if (ready_.empty()) return nullptr;
  SortReady();
  std::unique_ptr<Entry> entry = std::move(ready_.front());
  ready_.pop_front();
  ++entry->share->running;
  entry->share->turn = ++last_turn_;
  moved_ = true;
  return entry;
}

void LoadQueue::Dispatch() {
  while (running_ < threads_ && ready_.size() > starting_) {
    // There is room: a thread counts as running until it takes nothing more. What throws is tried again later.
    const absl::Status started = NoThrow([this] { return executor_->Submit({.run = [this] { Work(); }}); });
    if (!started.ok()) return;
    ++running_;
    ++starting_;
  }
}

void LoadQueue::Work() {
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
    const auto start = std::chrono::steady_clock::now();
    RunTask(entry->task, {.status = absl::OkStatus(), .number = entry->number, .memory = std::move(entry->memory)});
    const std::shared_ptr<Share> share = entry->share;
    entry.reset();
    MutexLock lock(mutex_);
    --share->running;
    durations_.Add(absl::FromChrono(std::chrono::steady_clock::now() - start));
    entry = TakeFirst();
    if (entry == nullptr) --running_;
  }
}

void LoadQueue::Watch() {
  absl::Time next = absl::InfiniteFuture();
  while (true) {
    signal_->Wait(std::clamp(next - absl::Now(), absl::ZeroDuration(), kLongestSleep));
    {
      MutexLock lock(mutex_);
      if (stopping_) return;
    }
    if (!NoThrow([&] { next = Look(); }).ok()) next = absl::Now() + kRetry;
  }
}

absl::Time LoadQueue::Look() {
  absl::Time next = absl::InfiniteFuture();
  MutexLock lock(mutex_);
  const absl::Time now = absl::Now();
  TakeEnded(ready_, now, next);
  TakeEnded(for_memory_, now, next);
  if (!ended_.empty() && !ends_->TrySubmit([this] { TellEnded(); })) next = now + kRetry;
  GiveMemory();
  Dispatch();
  if (running_ < threads_ && ready_.size() > starting_) next = std::min(next, now + kRetry);
  if (moved_ && now >= last_told_ + progress_interval_) {
    TellPlaces();
    moved_ = false;
    last_told_ = now;
  }
  if (moved_) next = std::min(next, last_told_ + progress_interval_);
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

void LoadQueue::TakeEnded(Entries& waiting, absl::Time now, absl::Time& next) {
  for (auto it = waiting.begin(); it != waiting.end();) {
    Entry& entry = **it;
    const absl::Status status = entry.task.context.Check();
    const bool waits_for_memory = entry.plan != nullptr;
    const absl::Time until = waits_for_memory ? entry.since + entry.task.load->memory_wait() : absl::InfiniteFuture();
    if (status.ok() && now < until) {
      next = std::min({next, until, entry.task.context.end()});
      ++it;
      continue;
    }
    entry.refused = status.ok() ? Annotate(entry.refused,
                                           StrCat("waited ", absl::FormatDuration(until - entry.since), " for memory"))
                                : status;
    ended_.splice(ended_.end(), waiting, it++);
    moved_ = true;
  }
}

// Looks before it reserves: what is reserved on one device and given back for want of another is memory given back,
// after which this queue would look again.
absl::Status LoadQueue::ReserveFor(Entry& entry) const {
  const LoadPlan& plan = *entry.plan;
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    Device* const device = devices_->Find(plan.devices[i]);
    if (device == nullptr || plan.reserve_bytes[i] <= device->account().state().free()) continue;
    KEYLOAD_RETURN_IF_ERROR(device->account().Reserve(plan.reserve_bytes[i]).status());
  }
  KEYLOAD_ASSIGN_OR_RETURN(entry.memory, ReserveForPlan(plan, *devices_));
  return absl::OkStatus();
}

void LoadQueue::GiveMemory() {
  for_memory_.sort([](const auto& a, const auto& b) { return GoesFirst(*a, *b); });
  DeviceNames awaited;  // by those that go first: nobody behind them takes some of it
  for (auto it = for_memory_.begin(); it != for_memory_.end();) {
    Entry& entry = **it;
    if (!Shares(*entry.plan, awaited)) {
      entry.refused = ReserveFor(entry);
      if (entry.refused.ok()) {
        entry.plan = nullptr;
        entry.told = 0;
        ready_.splice(ready_.end(), for_memory_, it++);
        moved_ = true;
        continue;
      }
    }
    AddDeviceNames(*entry.plan, awaited);
    ++it;
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
