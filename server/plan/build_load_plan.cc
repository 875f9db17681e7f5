#include <algorithm>
#include <numeric>
#include <string_view>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "server/plan/extents.h"
#include "server/plan/load_plan.h"
#include "server/plan/segments.h"

namespace keyload {
namespace {

void SortReads(LoadPlan& plan) {
  if (plan.parts.empty()) return;
  for (const PlannedTensor& tensor : plan.tensors) {
    const std::span<const PlannedTensor> parts = plan.PartsOf(tensor);
    plan.sorted_reads.insert(plan.sorted_reads.end(), parts.begin(), parts.end());
  }
  const auto order = [&](const PlannedTensor& read) { return ReadingOrder(plan.segments[read.segment].kind, read); };
  std::stable_sort(plan.sorted_reads.begin(), plan.sorted_reads.end(),
                   [&](const PlannedTensor& a, const PlannedTensor& b) { return order(a) < order(b); });
}

// What follows from the tensors and segments of a plan: runs, extents and sums.
void Finish(LoadPlan& plan) {
  std::vector<bool> used(plan.segments.size());
  for (const PlannedTensor& tensor : plan.tensors) {
    used[tensor.segment] = true;
    plan.selected_bytes += tensor.stored_bytes;
    if (plan.segments[tensor.segment].kind == SegmentKind::kFile) plan.mapped_bytes += tensor.stored_bytes;
  }
  plan.reserve_bytes.resize(plan.devices.size());
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    const PlannedSegment& segment = plan.segments[i];
    if (used[i] && segment.kind == SegmentKind::kMemory) plan.reserve_bytes[segment.device] += segment.bytes;
  }
  SortReads(plan);
  plan.runs = CoalesceRuns(plan.reads());
  plan.extents = CoalesceExtents(plan.runs, plan.segments, GapBudget(plan.selected_bytes - plan.mapped_bytes));
}

class PlanBuilder {
 public:
  PlanBuilder(const KeyReport& report, const PlacementInput& input, const Placement& placement,
              const PlanOptions& options)
      : report_(report), input_(input), placement_(placement), options_(options) {
    plan_->devices = placement.devices;
    may_map_.assign(report.index->shards().size(), options.map_host_tensors);
    for (size_t i = 0; i < may_map_.size() && options.may_map_shard; ++i) {
      may_map_[i] = may_map_[i] && options.may_map_shard(report.index->shards()[i]);
    }
  }

  std::shared_ptr<const LoadPlan> Build() {
    FindDuplicates();
    for (uint32_t placed = 0; placed < input_.keys.size(); ++placed) Add(placed);
    SortTensors();
    GiveSegments();
    PlaceParts();
    LinkDuplicates();
    Finish(*plan_);
    return plan_;
  }

 private:
  // The first stored member of a tied group provides; every further one is a duplicate.
  void FindDuplicates() {
    for (const std::vector<uint32_t>& group : report_.tied_groups) {
      int64_t provider = -1;
      for (const uint32_t key : group) {
        if (report_.keys[key].state != KeyState::kFound) continue;
        if (provider < 0) {
          provider = key;
        } else {
          provider_of_.emplace(key, static_cast<uint32_t>(provider));
        }
      }
    }
  }

  void Add(uint32_t placed) {
    const uint32_t key_index = input_.keys[placed];
    const ModelKey& key = report_.keys[key_index];
    if (key.state != KeyState::kFound) return;
    const uint16_t device = placement_.device_of[placed];
    if (plan_->devices[device] == "disk") {
      plan_->lazy_keys.push_back(key_index);
      return;
    }
    const absl::InlinedVector<KeyPart, 1> parts = report_.PartsOf(key);
    PlannedTensor tensor = PlanPart(parts.front(), key_index, input_.dtypes[placed]);
    if (parts.size() > 1) {
      tensor.first_part = static_cast<uint32_t>(plan_->parts.size());
      tensor.part_count = static_cast<uint32_t>(parts.size());
      tensor.bytes = input_.model.tensors[placed].bytes;
      tensor.stored_bytes = report_.StoredBytes(key);
      for (const KeyPart& part : parts) plan_->parts.push_back(PlanPart(part, key_index, tensor.dtype));
    }
    const bool can_map = may_map_[tensor.shard] && plan_->devices[device] == "cpu" && parts.size() == 1 &&
                         tensor.dtype == tensor.stored_dtype && tensor.file_offset % DTypeAlignment(tensor.dtype) == 0;
    tensor.segment = static_cast<uint32_t>(can_map ? SegmentKind::kFile : SegmentKind::kMemory);
    tensor.segment_offset = device;
    plan_->tensors.push_back(tensor);
  }

  PlannedTensor PlanPart(const KeyPart& part, uint32_t key, DType dtype) const {
    const StoredTensor& stored = report_.index->tensors()[part.stored];
    // What converts has whole bytes per element.
    const uint64_t bytes =
        dtype == stored.dtype ? part.bytes : part.bytes / (DTypeBits(stored.dtype) / 8) * (DTypeBits(dtype) / 8);
    return {.key = key,
            .bytes = bytes,
            .file_offset = stored.offset + part.offset,
            .stored_bytes = part.bytes,
            .shard = stored.shard,
            .dtype = dtype,
            .stored_dtype = stored.dtype};
  }

  void PlaceParts() {
    for (const PlannedTensor& tensor : plan_->tensors) {
      uint64_t offset = tensor.segment_offset;
      for (uint32_t i = 0; i < tensor.part_count; ++i) {
        PlannedTensor& part = plan_->parts[tensor.first_part + i];
        part.segment = tensor.segment;
        part.segment_offset = offset;
        offset += part.bytes;
      }
    }
  }

  // Until GiveSegments a tensor's segment is the kind of it, and its offset is the device.
  static SegmentKind KindOf(const PlannedTensor& tensor) { return static_cast<SegmentKind>(tensor.segment); }

  void SortTensors() {
    const auto order = [](const PlannedTensor& t) { return std::tuple(ReadingOrder(KindOf(t), t), t.key); };
    const auto less = [&](const PlannedTensor& a, const PlannedTensor& b) { return order(a) < order(b); };
    if (!std::is_sorted(plan_->tensors.begin(), plan_->tensors.end(), less)) {
      std::sort(plan_->tensors.begin(), plan_->tensors.end(), less);
    }
  }

  void GiveSegments() {
    SegmentLayout layout(*plan_);
    size_t mapped = 0;
    for (PlannedTensor& tensor : plan_->tensors) {
      const uint16_t device = static_cast<uint16_t>(tensor.segment_offset);
      if (KindOf(tensor) == SegmentKind::kFile) {
        tensor.segment = FileSegment(tensor.shard, device);
        tensor.segment_offset = tensor.file_offset;
        ++mapped;
      } else {
        layout.Add(tensor, report_.keys[tensor.key].name, device, provider_of_.contains(tensor.key));
      }
    }
    layout.LayOut(std::span(plan_->tensors).subspan(mapped));
  }

  uint32_t FileSegment(uint32_t shard, uint16_t device) {
    const auto [it, added] = file_segments_.try_emplace(shard, static_cast<uint32_t>(plan_->segments.size()));
    if (added) {
      plan_->segments.push_back({.kind = SegmentKind::kFile,
                                 .device = device,
                                 .shard = shard,
                                 .bytes = report_.index->shards()[shard].identity.size});
    }
    return it->second;
  }

  void LinkDuplicates() {
    if (provider_of_.empty()) return;
    absl::flat_hash_map<uint32_t, uint32_t> tensor_of_key;
    for (uint32_t i = 0; i < plan_->tensors.size(); ++i) tensor_of_key.emplace(plan_->tensors[i].key, i);
    for (uint32_t i = 0; i < plan_->tensors.size(); ++i) {
      const auto provider = provider_of_.find(plan_->tensors[i].key);
      if (provider == provider_of_.end()) continue;
      if (const auto it = tensor_of_key.find(provider->second); it != tensor_of_key.end()) {
        plan_->duplicates.push_back({.tensor = i, .provider = it->second});
      }
    }
  }

  const KeyReport& report_;
  const PlacementInput& input_;
  const Placement& placement_;
  const PlanOptions options_;
  std::shared_ptr<LoadPlan> plan_ = std::make_shared<LoadPlan>();
  std::vector<bool> may_map_;                              // per shard
  absl::flat_hash_map<uint32_t, uint32_t> file_segments_;  // shard -> segment
  absl::flat_hash_map<uint32_t, uint32_t> provider_of_;    // duplicate key -> providing key
};

}  // namespace

std::string_view EngineName(Engine engine) {
  switch (engine) {
    case Engine::kMapped:
      return "mapped";
    case Engine::kBuffered:
      return "buffered";
    case Engine::kDirect:
      return "direct";
  }
  return "";
}

std::string EngineNames(uint32_t engines) {
  std::string names;
  for (const Engine engine : {Engine::kMapped, Engine::kBuffered, Engine::kDirect}) {
    if ((engines >> static_cast<uint32_t>(engine) & 1) == 0) continue;
    if (!names.empty()) names += "+";
    names += EngineName(engine);
  }
  return names;
}

std::shared_ptr<const LoadPlan> BuildLoadPlan(const KeyReport& report, const PlacementInput& input,
                                              const Placement& placement, const PlanOptions& options) {
  return PlanBuilder(report, input, placement, options).Build();
}

std::shared_ptr<const LoadPlan> SubPlan(const LoadPlan& plan, std::span<const uint32_t> tensors) {
  auto part = std::make_shared<LoadPlan>();
  part->devices = plan.devices;
  part->segments = plan.segments;
  part->tensors.reserve(tensors.size());
  for (const uint32_t index : tensors) {
    PlannedTensor& tensor = part->tensors.emplace_back(plan.tensors[index]);
    if (tensor.part_count == 0) continue;
    const std::span<const PlannedTensor> parts = plan.PartsOf(plan.tensors[index]);
    tensor.first_part = static_cast<uint32_t>(part->parts.size());
    part->parts.insert(part->parts.end(), parts.begin(), parts.end());
  }
  Finish(*part);
  return part;
}

}  // namespace keyload
