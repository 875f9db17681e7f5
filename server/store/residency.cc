#include "server/store/residency.h"

#include <algorithm>
#include <chrono>
#include <tuple>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "server/base/error.h"
#include "server/base/no_throw.h"

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
  // All memory first, so that the tables are of one size whatever fails.
  const size_t segments = first_segment + added.segments.size();
  segments_.reserve(segments);
  users_.reserve(segments);
  kept_.reserve(segments);
  is_kept_.reserve(segments);
  memories_.reserve(segments);
  states_.reserve(plan->tensors.size());
  filled_.reserve(plan->tensors.size());
  totals_.devices.reserve(plan->devices.size());
  dropped_copies_.reserve(dropped_copies_.size() + added.dropped.size());
  plan_ = std::move(plan);
  segments_.insert(segments_.end(), std::make_move_iterator(added.segments.begin()),
                   std::make_move_iterator(added.segments.end()));
  users_.resize(segments_.size());
  kept_.resize(segments_.size());
  is_kept_.resize(segments_.size());
  memories_.resize(segments_.size(), 1);
  states_.resize(plan_->tensors.size(), State::kLazy);
  filled_.resize(states_.size());
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
    const PlannedSegment& planned = plan_->segments[i];
    if (segments_[i].memory != nullptr) {
      totals_.allocated_bytes += planned.bytes;
    } else if (!added.reserved.empty() && planned.kind == SegmentKind::kMemory) {
      kept_[i] = added.reserved[added.plan->segments[i - first_segment].device].Split(planned.bytes);
      is_kept_[i] = true;
    } else {
      continue;
    }
    totals_.devices[planned.device].memory_bytes += planned.bytes;
  }
}

// Takes no memory: what failed may have failed for the lack of it. So what is cut off is freed under the locks.
void Residency::CutBack(std::shared_ptr<const LoadPlan> plan) noexcept {
  MutexLock allocation(allocation_mutex_);
  MutexLock lock(mutex_);
  for (uint32_t i = static_cast<uint32_t>(plan->tensors.size()); i < states_.size(); ++i) {
    const PlannedTensor& planned = plan_->tensors[i];
    if (states_[i] == State::kDropped) continue;  // its key counts with its provider
    if (states_[i] == State::kResident) {
      DeviceTotals& device = totals_.devices[plan_->segments[planned.segment].device];
      --device.tensors;
      device.tensor_bytes -= planned.bytes;
      totals_.resident_keys -= KeysOf(i);
    } else {
      totals_.lazy_keys -= KeysOf(i);
    }
    dropped_copies_.erase(i);
  }
  for (size_t i = plan->segments.size(); i < segments_.size(); ++i) {
    const PlannedSegment& planned = plan_->segments[i];
    if (segments_[i].memory != nullptr) totals_.allocated_bytes -= planned.bytes;
    if (segments_[i].memory != nullptr || is_kept_[i]) totals_.devices[planned.device].memory_bytes -= planned.bytes;
  }
  const auto cut = [](auto& table, size_t size) {
    table.erase(table.begin() + static_cast<ptrdiff_t>(size), table.end());
  };
  cut(segments_, plan->segments.size());
  cut(users_, plan->segments.size());
  cut(kept_, plan->segments.size());
  cut(is_kept_, plan->segments.size());
  cut(memories_, plan->segments.size());
  cut(states_, plan->tensors.size());
  cut(filled_, plan->tensors.size());
  cut(totals_.devices, plan->devices.size());
  plan_ = std::move(plan);
}

Residency::Claim::Claim(Claim&& other) noexcept
    : residency_(std::exchange(other.residency_, nullptr)),
      tensors_(std::move(other.tensors_)),
      awaits_others_(other.awaits_others_),
      allocated_bytes_(std::move(other.allocated_bytes_)),
      freed_(std::move(other.freed_)),
      kept_(std::move(other.kept_)) {}

Residency::Claim::~Claim() {
  if (residency_ != nullptr) residency_->Abandon(*this);
}

Residency::Claim Residency::Begin(std::span<const uint32_t> tensors) {
  Claim claim(this);
  // All memory first: a tensor that is LOADING must be in a claim that can end.
  claim.tensors_.reserve(tensors.size());
  claim.freed_.reserve(tensors.size());
  claim.kept_.reserve(tensors.size());
  MutexLock lock(mutex_);
  for (const uint32_t tensor : tensors) {
    claim.awaits_others_ |= states_[tensor] == State::kLoading;
    if (states_[tensor] != State::kLazy) continue;
    SetLoading(tensor);
    const uint32_t segment = plan_->tensors[tensor].segment;
    if (segments_[segment].memory != nullptr && filled_[tensor] == memories_[segment]) {
      SetResident(tensor);
    } else {
      claim.tensors_.push_back(tensor);
    }
  }
  SortByFile(*plan_, claim.tensors_);
  return claim;
}

absl::StatusOr<std::vector<Segment>> Residency::Claim::Allocate(const LoadPlan& part, const RequestContext& context) {
  const std::vector<bool> filled = FilledSegments(part);
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<Segment> segments,
                           residency_->AllocateSegments(part, filled, context, allocated_bytes_));
  ZeroPadding(part, filled, segments);  // of segments in which nobody else has a tensor
  return segments;
}

absl::StatusOr<std::vector<Segment>> Residency::AllocateSegments(const LoadPlan& part, const std::vector<bool>& filled,
                                                                 const RequestContext& context,
                                                                 std::vector<uint64_t>& allocated_bytes) {
  MutexLock allocation(allocation_mutex_);
  std::vector<Segment> segments(part.segments.size());
  std::vector<uint32_t> lacking;
  {
    MutexLock lock(mutex_);
    for (size_t i = 0; i < segments.size(); ++i) {
      const Segment& segment = segments_[i];
      segments[i] = {.kind = segment.kind, .device = segment.device, .memory = nullptr, .shard = segment.shard};
    }
    std::vector<bool> seen(segments.size());
    for (const PlannedTensor& tensor : part.tensors) {
      const uint32_t index = tensor.segment;
      if (seen[index]) continue;
      seen[index] = true;
      segments[index].memory = segments_[index].memory;
      if (segments[index].kind == SegmentKind::kMemory && segments[index].memory == nullptr) lacking.push_back(index);
    }
  }
  allocated_bytes.resize(part.devices.size());
  // Under allocation_mutex_ nobody else gives a segment memory, and what is LOADING keeps its segment's.
  std::vector<std::unique_ptr<DeviceMemory>> memory;
  KEYLOAD_ASSIGN_OR_RETURN(memory, AllocateMemory(part, segments, lacking, filled, context));
  MutexLock lock(mutex_);
  for (size_t i = 0; i < lacking.size(); ++i) {
    const PlannedSegment& planned = part.segments[lacking[i]];
    allocated_bytes[planned.device] += planned.bytes;
    totals_.allocated_bytes += planned.bytes;
    segments[lacking[i]].memory = std::move(memory[i]);
    segments_[lacking[i]].memory = segments[lacking[i]].memory;
  }
  return segments;
}

absl::StatusOr<std::vector<std::unique_ptr<DeviceMemory>>> Residency::AllocateMemory(
    const LoadPlan& part, const std::vector<Segment>& segments, std::span<const uint32_t> lacking,
    const std::vector<bool>& filled, const RequestContext& context) {
  std::vector<Device*> devices(part.devices.size());
  std::vector<uint64_t> wanted(part.devices.size());
  for (const uint32_t index : lacking) {
    if (kept_[index].remaining() > 0) continue;
    devices[part.segments[index].device] = segments[index].device;
    wanted[part.segments[index].device] += part.segments[index].bytes;
  }
  std::vector<MemoryReservation> fresh(part.devices.size());
  for (size_t d = 0; d < fresh.size(); ++d) {
    if (wanted[d] == 0) continue;
    KEYLOAD_ASSIGN_OR_RETURN(fresh[d], devices[d]->account().Reserve(wanted[d]));
  }
  std::vector<std::unique_ptr<DeviceMemory>> memory;
  std::vector<uint32_t> taken;  // out of kept_
  memory.reserve(lacking.size());
  taken.reserve(lacking.size());
  absl::Cleanup keep_again = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    memory.clear();
    KeepAgain(taken);
  };
  for (const uint32_t index : lacking) {
    KEYLOAD_RETURN_IF_ERROR(context.Check());
    const PlannedSegment& planned = part.segments[index];
    const bool is_kept = kept_[index].remaining() > 0;
    MemoryReservation& reservation = is_kept ? kept_[index] : fresh[planned.device];
    const Contents contents = filled[index] ? Contents::kUnspecified : Contents::kZeroed;
    KEYLOAD_ASSIGN_OR_RETURN(std::unique_ptr<DeviceMemory> one,
                             segments[index].device->Allocate(reservation, planned.bytes, contents));
    memory.push_back(std::move(one));
    if (is_kept) taken.push_back(index);
  }
  std::move(keep_again).Cancel();
  MutexLock lock(mutex_);
  for (size_t d = 0; d < wanted.size(); ++d) totals_.devices[d].memory_bytes += wanted[d];
  return memory;
}

void Residency::KeepAgain(std::span<const uint32_t> segments) noexcept {
  MutexLock lock(mutex_);
  for (const uint32_t index : segments) {
    MemoryAccount& account = segments_[index].device->account();
    absl::StatusOr<MemoryReservation> again = NoThrow([&] { return account.Reserve(plan_->segments[index].bytes); });
    again.ok() ? void(kept_[index] = *std::move(again)) : GiveUp(index);
  }
}

void Residency::GiveUp(uint32_t segment) {
  is_kept_[segment] = false;
  totals_.devices[plan_->segments[segment].device].memory_bytes -= plan_->segments[segment].bytes;
}

void Residency::Claim::Commit() {
  MutexLock lock(residency_->mutex_);
  for (const uint32_t tensor : tensors_) residency_->SetResident(tensor);
  residency_->changed_.NotifyAll();
  residency_ = nullptr;
}

void Residency::Abandon(Claim& claim) {
  MutexLock allocation(allocation_mutex_);  // who takes over finds what was kept
  {
    Freed freed = std::move(claim.freed_);  // ends after the lock
    MutexLock lock(mutex_);
    for (const uint32_t tensor : claim.tensors_) {
      states_[tensor] = State::kLazy;
      Leave(tensor, freed);
    }
    for (const auto& [segment, memory] : freed) is_kept_[segment] ? claim.kept_.push_back(segment) : GiveUp(segment);
    changed_.NotifyAll();
  }
  KeepAgain(claim.kept_);
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
  Freed freed;  // ends after the lock
  freed.reserve(tensors.size());
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
    Leave(tensor, freed);
    ++evicted.tensors;
  }
  for (const auto& [segment, memory] : freed) {
    evicted.bytes += plan_->segments[segment].bytes;
    GiveUp(segment);
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
  filled_[tensor] = memories_[planned.segment];
}

void Residency::Leave(uint32_t tensor, Freed& freed) {
  const uint32_t index = plan_->tensors[tensor].segment;
  if (--users_[index] > 0 || segments_[index].memory == nullptr) return;
  totals_.allocated_bytes -= plan_->segments[index].bytes;
  freed.emplace_back(index, std::move(segments_[index].memory));
  ++memories_[index];
}

Residency::KeyTotals Residency::key_totals() const {
  MutexLock lock(mutex_);
  return {.resident = totals_.resident_keys, .lazy = totals_.lazy_keys};
}

uint64_t Residency::KeysOf(uint32_t tensor) const {
  if (dropped_copies_.empty()) return 1;
  const auto it = dropped_copies_.find(tensor);
  return it == dropped_copies_.end() ? 1 : 1 + it->second;
}

}  // namespace keyload
