#include "server/service/load_queue.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "server/base/error.h"
#include "server/base/pool_turn.h"
#include "server/base/retry.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

// Longer waits are cut in pieces, which the condition variable's arithmetic has room for.
constexpr absl::Duration kLongestSleep = absl::Hours(1);

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
    entry->task.run({.status = MakeError(Reason::kLoadCancelled, "the server ends"), .number = entry->number});
  }
  ends_.reset();
  executor_.reset();
}

bool LoadQueue::GoesFirst(const Entry& a, const Entry& b) {
  return a.priority != b.priority ? a.priority > b.priority : a.number < b.number;
}

std::unique_ptr<LoadQueue::Entry> LoadQueue::MakeEntry(Task task, uint64_t number) const {
  auto entry = std::make_unique<Entry>();
  entry->task = std::move(task);
  entry->number = number;
  entry->priority = entry->task.load == nullptr ? 0 : entry->task.load->priority();
  entry->on_stop.emplace(entry->task.context.stop, [signal = signal_] { signal->Raise(); });
  return entry;
}

absl::Status LoadQueue::Full() const {
  const size_t waiting = ready_.size() + for_memory_.size();
  return TooManyWaiting(durations_.TimeFor(waiting, threads_));
}

absl::Status LoadQueue::RoomForTask() const {
  return running_ == threads_ && ready_.size() + for_memory_.size() >= limit_ ? Full() : absl::OkStatus();
}

absl::Status LoadQueue::CheckRoom() const {
  MutexLock lock(mutex_);
  return RoomForTask();
}

absl::Status LoadQueue::Submit(Task task) {
  {
    MutexLock lock(mutex_);
    if (stopping_) return MakeError(Reason::kLoadCancelled, "the server ends");
    if (!task.always) KEYLOAD_RETURN_IF_ERROR(RoomForTask());
    ready_.push_back(MakeEntry(std::move(task), ++last_number_));
    moved_ = true;
    Dispatch();
    if (ready_.empty()) return absl::OkStatus();
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
    if (ready_.size() + for_memory_.size() >= limit_) return Full();
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
  return ready_.size();
}

size_t LoadQueue::waiting_for_memory() const {
  MutexLock lock(mutex_);
  return for_memory_.size();
}

std::unique_ptr<LoadQueue::Entry> LoadQueue::TakeFirst() {
  const auto first =
      std::min_element(ready_.begin(), ready_.end(), [](const auto& a, const auto& b) { return GoesFirst(*a, *b); });
  if (first == ready_.end()) return nullptr;
  std::unique_ptr<Entry> entry = std::move(*first);
  ready_.erase(first);
  moved_ = true;
  return entry;
}

void LoadQueue::Dispatch() {
  while (running_ < threads_ && !ready_.empty()) {
    ++running_;
    // There is room: a thread counts as running until it takes nothing more.
    (void)executor_->TrySubmit([this, entry = TakeFirst()]() mutable { Work(std::move(entry)); });
  }
}

// A load that waits for a mount does not count as one that runs, nor does its thread.
class LoadQueue::LoadTurn : public PoolTurn {
 public:
  explicit LoadTurn(LoadQueue& queue) : queue_(queue), scope_(*this) {}

  void GiveUp() override {
    scope_.before()->GiveUp();
    {
      MutexLock lock(queue_.mutex_);
      --queue_.running_;
      queue_.Dispatch();
    }
    queue_.signal_->Raise();
  }
  void TakeBack() override {
    scope_.before()->TakeBack();
    MutexLock lock(queue_.mutex_);
    ++queue_.running_;
  }

 private:
  LoadQueue& queue_;
  const Scope scope_;
};

void LoadQueue::Work(std::unique_ptr<Entry> entry) {
  LoadTurn turn(*this);
  while (entry != nullptr) {
    entry->on_stop.reset();
    const auto start = std::chrono::steady_clock::now();
    entry->task.run({.status = absl::OkStatus(), .number = entry->number, .memory = std::move(entry->memory)});
    entry.reset();
    const absl::Duration duration = absl::FromChrono(std::chrono::steady_clock::now() - start);
    {
      MutexLock lock(mutex_);
      durations_.Add(duration);
      if (running_ <= threads_) entry = TakeFirst();  // more may run after one has waited for a mount
      if (entry == nullptr) --running_;
    }
    if (entry != nullptr) signal_->Raise();
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
    next = Look();
  }
}

Deadline LoadQueue::Look() {
  Entries ended;
  Deadline next;
  {
    MutexLock lock(mutex_);
    TakeEnded(ready_, ended, next);
    TakeEnded(for_memory_, ended, next);
    GiveMemory();
    Dispatch();
    if (moved_ && tell_after_.passed()) {
      TellPlaces();
      moved_ = false;
      tell_after_ = Deadline::After(progress_interval_);
    }
    if (moved_) next = std::min(next, tell_after_);
  }
  for (std::unique_ptr<Entry>& entry : ended) {
    entry->on_stop.reset();
    entry->memory.clear();
    [[maybe_unused]] const bool queued = ends_->TrySubmit([entry = std::move(entry)]() mutable {
      entry->task.run({.status = entry->refused, .number = entry->number});
      entry.reset();
    });
  }
  return next;
}

void LoadQueue::TakeEnded(Entries& waiting, Entries& ended, Deadline& next) {
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
    ended.push_back(std::move(*it));
    it = waiting.erase(it);
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
        ready_.push_back(std::move(*it));
        it = for_memory_.erase(it);
        moved_ = true;
        continue;
      }
    }
    AddDeviceNames(*entry.plan, awaited);
    ++it;
  }
}

void LoadQueue::TellPlaces() {
  ready_.sort([](const auto& a, const auto& b) { return GoesFirst(*a, *b); });
  for (const auto& [waiting, phase] : {std::pair(&ready_, "queue"), std::pair(&for_memory_, "memory")}) {
    uint32_t place = 0;
    for (const std::unique_ptr<Entry>& entry : *waiting) {
      ++place;
      if (entry->task.load == nullptr || entry->told == place) continue;
      entry->told = place;
      entry->task.load->Progress({.phase = phase, .queue_position = place});
    }
  }
}

}  // namespace keyload
