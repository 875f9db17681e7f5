#include "server/store/residency.h"

#include <algorithm>
#include <chrono>
#include <tuple>
#include <utility>

#include "server/base/error.h"

namespace keyload {
namespace {

constexpr auto kCheckInterval = std::chrono::milliseconds(50);  // of a caller's cancellation, while it waits

void SortByFile(const LoadPlan& plan, std::vector<uint32_t>& tensors) {
  const auto order = [&](uint32_t t) {
    const PlannedTensor& tensor = plan.tensors[t];
    return std::tuple(ReadingOrder(plan.segments[tensor.segment].kind, tensor), t);
  };
  const auto before = [&](uint32_t a, uint32_t b) { return order(a) < order(b); };
  if (!std::is_sorted(tensors.begin(), tensors.end(), before)) std::sort(tensors.begin(), tensors.end(), before);
}

}  // namespace

Residency::Residency(Content content) {
  std::shared_ptr<const LoadPlan> plan = content.plan;
  Append(std::move(plan), std::move(content));
}

void Residency::Append(std::shared_ptr<const LoadPlan> plan, Content added) {
  MutexLock allocation(allocation_mutex_);
  MutexLock lock(mutex_);
  const auto first_tensor = static_cast<uint32_t>(states_.size());
  const size_t first_segment = segments_.size();
  plan_ = std::move(plan);
  segments_.insert(segments_.end(), std::make_move_iterator(added.segments.begin()),
                   std::make_move_iterator(added.segments.end()));
  users_.resize(segments_.size());
  states_.resize(plan_->tensors.size(), State::kLazy);
  totals_.lazy_keys += states_.size() - first_tensor;
  totals_.devices.resize(plan_->devices.size());
  for (const TiedDuplicate& copy : added.dropped) {
    states_[first_tensor + copy.tensor] = State::kDropped;
    ++dropped_copies_[first_tensor + copy.provider];
  }
  if (added.state == State::kResident) {
    for (uint32_t i = first_tensor; i < states_.size(); ++i) {
      if (states_[i] == State::kDropped) continue;
      SetLoading(i);
      SetResident(i);
    }
  }
  for (size_t i = first_segment; i < segments_.size(); ++i) {
    if (segments_[i].memory == nullptr) continue;
    totals_.allocated_bytes += plan_->segments[i].bytes;
    totals_.devices[plan_->segments[i].device].memory_bytes += plan_->segments[i].bytes;
  }
  for (size_t i = 0; i < added.reserved.size(); ++i) {
    const auto device = static_cast<uint16_t>(
        std::find(plan_->devices.begin(), plan_->devices.end(), added.plan->devices[i]) - plan_->devices.begin());
    totals_.devices[device].memory_bytes += added.reserved[i].remaining();
    if (added.reserved[i].remaining() > 0) {
      kept_.push_back({.device = device, .reservation = std::move(added.reserved[i])});
    }
  }
}

Residency::Claim::Claim(Claim&& other) noexcept
    : residency_(std::exchange(other.residency_, nullptr)),
      tensors_(std::move(other.tensors_)),
      awaits_others_(other.awaits_others_),
      allocated_bytes_(std::move(other.allocated_bytes_)) {}

Residency::Claim::~Claim() {
  if (residency_ != nullptr) residency_->Abandon(tensors_);
}

Residency::Claim Residency::Begin(std::span<const uint32_t> tensors) {
  Claim claim(this);
  MutexLock lock(mutex_);
  for (const uint32_t tensor : tensors) {
    claim.awaits_others_ |= states_[tensor] == State::kLoading;
    if (states_[tensor] != State::kLazy) continue;
    SetLoading(tensor);
    claim.tensors_.push_back(tensor);
  }
  SortByFile(*plan_, claim.tensors_);
  return claim;
}

absl::StatusOr<std::vector<Segment>> Residency::Claim::Allocate() {
  MutexLock allocation(residency_->allocation_mutex_);
  std::shared_ptr<const LoadPlan> plan;
  std::vector<Segment> segments;
  std::vector<uint32_t> lacking;
  {
    MutexLock lock(residency_->mutex_);
    plan = residency_->plan_;
    segments.resize(plan->segments.size());
    for (size_t i = 0; i < segments.size(); ++i) {
      const Segment& segment = residency_->segments_[i];
      segments[i] = {.kind = segment.kind, .device = segment.device, .memory = nullptr, .shard = segment.shard};
    }
    std::vector<bool> seen(segments.size());
    for (const uint32_t tensor : tensors_) {
      const uint32_t index = plan->tensors[tensor].segment;
      if (seen[index]) continue;
      seen[index] = true;
      segments[index].memory = residency_->segments_[index].memory;
      if (segments[index].kind == SegmentKind::kMemory && segments[index].memory == nullptr) lacking.push_back(index);
    }
  }
  // Under allocation_mutex_ nobody else gives a segment memory, and what is LOADING keeps its segment's.
  std::vector<std::unique_ptr<DeviceMemory>> memory;
  KEYLOAD_ASSIGN_OR_RETURN(memory, residency_->AllocateMemory(*plan, segments, lacking));
  allocated_bytes_.resize(plan->devices.size());
  MutexLock lock(residency_->mutex_);
  for (size_t i = 0; i < lacking.size(); ++i) {
    const PlannedSegment& planned = plan->segments[lacking[i]];
    allocated_bytes_[planned.device] += planned.bytes;
    residency_->totals_.allocated_bytes += planned.bytes;
    segments[lacking[i]].memory = std::move(memory[i]);
    residency_->segments_[lacking[i]].memory = segments[lacking[i]].memory;
  }
  return segments;
}

absl::StatusOr<std::vector<std::unique_ptr<DeviceMemory>>> Residency::AllocateMemory(
    const LoadPlan& plan, const std::vector<Segment>& segments, std::span<const uint32_t> lacking) {
  const std::vector<Device*> devices = [&] {
    std::vector<Device*> by_index(plan.devices.size());
    for (const uint32_t s : lacking) by_index[plan.segments[s].device] = segments[s].device;
    return by_index;
  }();
  std::vector<uint64_t> left(kept_.size());
  for (size_t i = 0; i < kept_.size(); ++i) left[i] = kept_[i].reservation.remaining();
  std::vector<size_t> source(lacking.size(), kept_.size());  // index into kept_; past its end: a new reservation
  std::vector<uint64_t> wanted(plan.devices.size());
  for (size_t i = 0; i < lacking.size(); ++i) {
    const PlannedSegment& planned = plan.segments[lacking[i]];
    for (size_t k = 0; k < kept_.size() && source[i] == kept_.size(); ++k) {
      if (kept_[k].device == planned.device && left[k] >= planned.bytes) source[i] = k;
    }
    (source[i] < kept_.size() ? left[source[i]] -= planned.bytes : wanted[planned.device] += planned.bytes);
  }
  std::vector<MemoryReservation> fresh(plan.devices.size());
  for (size_t d = 0; d < fresh.size(); ++d) {
    if (wanted[d] == 0) continue;
    KEYLOAD_ASSIGN_OR_RETURN(fresh[d], devices[d]->account().Reserve(wanted[d]));
  }
  std::vector<std::unique_ptr<DeviceMemory>> memory;
  std::vector<uint64_t> taken(plan.devices.size());  // out of kept_
  for (size_t i = 0; i < lacking.size(); ++i) {
    const PlannedSegment& planned = plan.segments[lacking[i]];
    const bool is_kept = source[i] < kept_.size();
    absl::StatusOr<std::unique_ptr<DeviceMemory>> one = devices[planned.device]->Allocate(
        is_kept ? kept_[source[i]].reservation : fresh[planned.device], planned.bytes, Contents::kZeroed);
    if (!one.ok()) {
      memory.clear();
      KeepAgain(devices, taken);
      return one.status();
    }
    memory.push_back(*std::move(one));
    taken[planned.device] += is_kept ? planned.bytes : 0;
  }
  MutexLock lock(mutex_);
  for (size_t d = 0; d < wanted.size(); ++d) totals_.devices[d].memory_bytes += wanted[d];
  return memory;
}

void Residency::KeepAgain(const std::vector<Device*>& devices, const std::vector<uint64_t>& bytes) {
  for (size_t d = 0; d < bytes.size(); ++d) {
    if (bytes[d] == 0) continue;
    absl::StatusOr<MemoryReservation> again = devices[d]->account().Reserve(bytes[d]);
    if (again.ok()) {
      kept_.push_back({.device = static_cast<uint16_t>(d), .reservation = *std::move(again)});
    } else {
      MutexLock lock(mutex_);
      totals_.devices[d].memory_bytes -= bytes[d];
    }
  }
}

void Residency::Claim::Commit() {
  MutexLock lock(residency_->mutex_);
  for (const uint32_t tensor : tensors_) residency_->SetResident(tensor);
  residency_->changed_.NotifyAll();
  residency_ = nullptr;
}

void Residency::Abandon(std::span<const uint32_t> tensors) {
  std::vector<std::shared_ptr<DeviceMemory>> freed;  // ends after the lock
  MutexLock lock(mutex_);
  for (const uint32_t tensor : tensors) {
    states_[tensor] = State::kLazy;
    Leave(tensor, freed);
  }
  changed_.NotifyAll();
}

absl::Status Residency::WaitForOthers(std::span<const uint32_t> tensors, const RequestContext& context) {
  MutexLock lock(mutex_);
  while (true) {
    bool loading = false;
    for (const uint32_t tensor : tensors) loading |= states_[tensor] == State::kLoading;
    if (!loading) return absl::OkStatus();
    KEYLOAD_RETURN_IF_ERROR(context.Check());
    changed_.WaitFor(mutex_, kCheckInterval);
  }
}

Residency::Evicted Residency::Evict(std::span<const uint32_t> tensors) {
  std::vector<std::shared_ptr<DeviceMemory>> freed;  // ends after the lock
  Evicted evicted;
  MutexLock lock(mutex_);
  for (const uint32_t tensor : tensors) {
    if (states_[tensor] != State::kResident) continue;
    const PlannedTensor& planned = plan_->tensors[tensor];
    DeviceTotals& device = totals_.devices[plan_->segments[planned.segment].device];
    --device.tensors;
    device.tensor_bytes -= planned.bytes;
    totals_.resident_keys -= KeysOf(tensor);
    totals_.lazy_keys += KeysOf(tensor);
    states_[tensor] = State::kLazy;
    evicted.bytes += Leave(tensor, freed);
    ++evicted.tensors;
  }
  return evicted;
}

std::optional<Segment> Residency::Pin(uint32_t tensor) const {
  MutexLock lock(mutex_);
  if (states_[tensor] != State::kResident) return std::nullopt;
  return segments_[plan_->tensors[tensor].segment];
}

std::vector<Residency::State> Residency::states() const {
  MutexLock lock(mutex_);
  return states_;
}

std::shared_ptr<const LoadPlan> Residency::plan() const {
  MutexLock lock(mutex_);
  return plan_;
}

Residency::Totals Residency::totals() const {
  MutexLock lock(mutex_);
  return totals_;
}

void Residency::SetLoading(uint32_t tensor) {
  states_[tensor] = State::kLoading;
  ++users_[plan_->tensors[tensor].segment];
}

void Residency::SetResident(uint32_t tensor) {
  const PlannedTensor& planned = plan_->tensors[tensor];
  DeviceTotals& device = totals_.devices[plan_->segments[planned.segment].device];
  ++device.tensors;
  device.tensor_bytes += planned.bytes;
  totals_.resident_keys += KeysOf(tensor);
  totals_.lazy_keys -= KeysOf(tensor);
  states_[tensor] = State::kResident;
}

uint64_t Residency::Leave(uint32_t tensor, std::vector<std::shared_ptr<DeviceMemory>>& freed) {
  const uint32_t index = plan_->tensors[tensor].segment;
  if (--users_[index] > 0 || segments_[index].memory == nullptr) return 0;
  const uint64_t bytes = plan_->segments[index].bytes;
  totals_.allocated_bytes -= bytes;
  totals_.devices[plan_->segments[index].device].memory_bytes -= bytes;
  freed.push_back(std::move(segments_[index].memory));
  segments_[index].memory = nullptr;
  return bytes;
}

uint64_t Residency::KeysOf(uint32_t tensor) const {
  if (dropped_copies_.empty()) return 1;
  const auto it = dropped_copies_.find(tensor);
  return it == dropped_copies_.end() ? 1 : 1 + it->second;
}

}  // namespace keyload
