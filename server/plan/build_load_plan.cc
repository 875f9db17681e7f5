#include <algorithm>
#include <numeric>
#include <string_view>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "server/plan/extents.h"
#include "server/plan/load_plan.h"

namespace keyload {
namespace {

constexpr uint64_t kTensorAlignment = 256;  // what CUDA guarantees of an allocation, and more than any element needs
constexpr uint64_t kSegmentTarget = 2ull << 20;  // below it, neighbouring units share a segment
constexpr uint64_t kGapShare = 100;              // gaps may add 1/100 to what is read

uint64_t AlignUp(uint64_t value) { return (value + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment; }

// What is evicted together: the module up to its first numbered component ("model.layers.3"), else the parent module.
std::string_view EvictionUnit(std::string_view key) {
  size_t start = 0;
  while (true) {
    const size_t dot = key.find('.', start);
    if (dot == std::string_view::npos) return key.substr(0, start == 0 ? 0 : start - 1);
    const std::string_view component = key.substr(start, dot - start);
    if (component.find_first_not_of("0123456789") == std::string_view::npos && !component.empty())
      return key.substr(0, dot);
    start = dot + 1;
  }
}

// What follows from the tensors and segments of a plan: extents and sums.
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
  plan.extents = CoalesceExtents(plan.tensors, plan.segments, (plan.selected_bytes - plan.mapped_bytes) / kGapShare);
}

class PlanBuilder {
 public:
  PlanBuilder(const KeyReport& report, const PlacementInput& input, const Placement& placement,
              const PlanOptions& options)
      : report_(report), input_(input), placement_(placement), options_(options), open_(placement.devices.size()) {
    plan_->devices = placement.devices;
  }

  std::shared_ptr<const LoadPlan> Build() {
    FindDuplicates();
    for (uint32_t placed = 0; placed < input_.keys.size(); ++placed) Add(placed);
    SortTensors();
    LinkDuplicates();
    Finish(*plan_);
    return plan_;
  }

 private:
  struct OpenSegment {
    int64_t index = -1;
    std::string_view unit;
  };

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
    const StoredTensor& stored = report_.index->tensors()[key.stored];
    PlannedTensor tensor = {.key = key_index,
                            .bytes = input_.model.tensors[placed].bytes,
                            .file_offset = stored.offset,
                            .stored_bytes = stored.bytes,
                            .shard = stored.shard,
                            .dtype = input_.dtypes[placed],
                            .stored_dtype = stored.dtype};
    const bool can_map = options_.map_host_tensors && plan_->devices[device] == "cpu" && tensor.dtype == stored.dtype &&
                         stored.offset % DTypeAlignment(stored.dtype) == 0;
    if (can_map) {
      tensor.segment = FileSegment(stored.shard, device);
      tensor.segment_offset = stored.offset;
    } else {
      tensor.segment = MemorySegment(key, key_index, device);
      PlannedSegment& segment = plan_->segments[tensor.segment];
      tensor.segment_offset = segment.bytes;
      segment.bytes = AlignUp(segment.bytes + tensor.bytes);
    }
    plan_->tensors.push_back(tensor);
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

  uint32_t MemorySegment(const ModelKey& key, uint32_t key_index, uint16_t device) {
    const auto fresh = [&] {
      plan_->segments.push_back({.kind = SegmentKind::kMemory, .device = device});
      return static_cast<uint32_t>(plan_->segments.size() - 1);
    };
    if (provider_of_.contains(key_index)) return fresh();
    OpenSegment& open = open_[device];
    const std::string_view unit = EvictionUnit(key.name);
    if (open.index < 0 || (open.unit != unit && plan_->segments[open.index].bytes >= kSegmentTarget)) {
      open.index = fresh();
    }
    open.unit = unit;
    return static_cast<uint32_t>(open.index);
  }

  void SortTensors() {
    const auto order = [&](const PlannedTensor& t) {
      return std::tuple(plan_->segments[t.segment].kind, t.shard, t.file_offset, t.key);
    };
    const auto less = [&](const PlannedTensor& a, const PlannedTensor& b) { return order(a) < order(b); };
    if (!std::is_sorted(plan_->tensors.begin(), plan_->tensors.end(), less)) {
      std::sort(plan_->tensors.begin(), plan_->tensors.end(), less);
    }
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
  std::vector<OpenSegment> open_;                          // per device
  absl::flat_hash_map<uint32_t, uint32_t> file_segments_;  // shard -> segment
  absl::flat_hash_map<uint32_t, uint32_t> provider_of_;    // duplicate key -> providing key
};

}  // namespace

std::string_view EngineName(Engine engine) { return engine == Engine::kMapped ? "mapped" : "buffered"; }

std::shared_ptr<const LoadPlan> BuildLoadPlan(const KeyReport& report, const PlacementInput& input,
                                              const Placement& placement, const PlanOptions& options) {
  return PlanBuilder(report, input, placement, options).Build();
}

std::shared_ptr<const LoadPlan> SubPlan(const LoadPlan& plan, std::span<const uint32_t> tensors) {
  auto part = std::make_shared<LoadPlan>();
  part->devices = plan.devices;
  part->segments = plan.segments;
  part->tensors.reserve(tensors.size());
  for (const uint32_t tensor : tensors) part->tensors.push_back(plan.tensors[tensor]);
  Finish(*part);
  return part;
}

}  // namespace keyload
