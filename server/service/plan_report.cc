#include "server/service/plan_report.h"

#include <algorithm>
#include <map>

#include "server/base/byte_size.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/natural_order.h"

namespace keyload {
namespace {

// The first `limit` names in natural order, without sorting the rest.
std::vector<std::string> FirstNames(std::vector<std::string_view> names, size_t limit) {
  const size_t count = std::min(limit, names.size());
  std::partial_sort(names.begin(), names.begin() + static_cast<ptrdiff_t>(count), names.end(), NaturalLess);
  return {names.begin(), names.begin() + static_cast<ptrdiff_t>(count)};
}

// Index file and headers should agree; the headers are what is believed. What only the index file has, Reconcile tells.
void AddIndexWarnings(const CheckpointIndex& index, LoadReport& report) {
  for (std::string& warning : index.Warnings()) report.warnings.push_back(std::move(warning));
  const std::vector<std::string>& keys = index.unindexed_keys();
  if (keys.empty()) return;
  report.warnings.push_back(StrCat(index.index_file(), ": ", keys.size(),
                                   " keys are in a shard, but not in it, for example ",
                                   keys.front().substr(0, kNameInMessage)));
}

// Per placed tensor: whether it is the one that its tied group is counted at, or in no group.
std::vector<bool> CountedOnce(const PlacementModel& model) {
  std::vector<bool> counted(model.tensors.size(), true);
  for (const std::vector<uint32_t>& group : model.tied_groups) {
    const auto first = std::min_element(group.begin(), group.end());
    for (auto member = group.begin(); member != group.end(); ++member) counted[*member] = member == first;
  }
  return counted;
}

void AddDeviceUses(const KeyReport& keys, const PlacementInput& input, const Placement& placement, const LoadPlan& plan,
                   const std::vector<PlacementDevice>& devices, const DeviceSet& node, LoadReport& report) {
  report.devices.resize(placement.devices.size());
  for (size_t i = 0; i < placement.devices.size(); ++i) {
    DeviceUse& use = report.devices[i];
    use.device = placement.devices[i];
    use.reserved_bytes = plan.reserve_bytes[i];
    for (const PlacementDevice& device : devices) {
      if (device.name != use.device) continue;
      use.uuid = device.uuid;
      if (device.free_bytes < use.reserved_bytes) {
        report.warnings.push_back(StrCat(use.device, ": the plan needs ", FormatByteSize(use.reserved_bytes), ", ",
                                         FormatByteSize(device.free_bytes), " are free"));
      }
    }
    if (const Device* device = node.Find(use.device); device != nullptr) use.simulated = device->info().simulated;
  }
  const std::vector<bool> counted = CountedOnce(input.model);
  for (size_t placed = 0; placed < input.keys.size(); ++placed) {
    if (!counted[placed]) continue;
    const KeyState state = keys.keys[input.keys[placed]].state;
    if (state == KeyState::kMissing || state == KeyState::kMissingIgnored || state == KeyState::kMismatched) {
      report.devices[placement.device_of[placed]].missing_bytes += input.model.tensors[placed].bytes;
    }
  }
}

}  // namespace

absl::StatusOr<LoadReport> MakePlanReport(const LoadSpec& spec, const PreparedKeys& prepared,
                                          const PlacementInput& input, const Placement& placement, const LoadPlan& plan,
                                          const std::vector<PlacementDevice>& devices, const DeviceSet& node,
                                          const RequestContext& context) {
  const KeyReport& keys = *prepared.keys;
  LoadReport report;
  report.model = spec.model;
  report.expected_from = prepared.expected_from;
  report.keys = keys.counts;
  report.compared_with = prepared.compared_with;
  report.findings = prepared.findings;
  if (!prepared.warning.empty()) report.warnings.push_back(prepared.warning);
  for (const Finding& finding : prepared.findings) report.warnings.push_back(finding.message);
  report.warnings.insert(report.warnings.end(), keys.warnings.begin(), keys.warnings.end());
  report.warnings.insert(report.warnings.end(), placement.warnings.begin(), placement.warnings.end());
  AddIndexWarnings(*keys.index, report);
  PeriodicCheck check(&context);
  KEYLOAD_RETURN_IF_ERROR(AddNames(keys, KeySelection(), spec.name_limit, check, report));
  report.device_map = placement.device_map;
  AddDeviceUses(keys, input, placement, plan, devices, node, report);
  AddTensors(*keys.index, plan, report);
  report.bytes.selected = plan.selected_bytes;
  return report;
}

absl::Status AddNames(const KeyReport& keys, const KeySelection& selection, size_t limit, PeriodicCheck& check,
                      LoadReport& report) {
  std::vector<std::string_view> missing;
  std::vector<const ModelKey*> mismatched;
  for (const ModelKey& key : keys.keys) {
    if (key.state != KeyState::kMissing && key.state != KeyState::kMismatched) continue;
    KEYLOAD_RETURN_IF_ERROR(check.Check(selection.CostOf(key.name)));
    if (!selection.Selects(key.name)) continue;
    key.state == KeyState::kMissing ? missing.push_back(key.name) : mismatched.push_back(&key);
  }
  report.missing_keys = FirstNames(std::move(missing), limit);
  for (const UnexpectedKey& key : keys.unexpected) {
    if (report.unexpected_keys.size() == limit) break;
    KEYLOAD_RETURN_IF_ERROR(check.Check(selection.CostOf(key.name)));
    if (!key.ignored && selection.Selects(key.name)) report.unexpected_keys.emplace_back(key.name);
  }
  const size_t count = std::min(limit, mismatched.size());
  std::partial_sort(mismatched.begin(), mismatched.begin() + static_cast<ptrdiff_t>(count), mismatched.end(),
                    [](const ModelKey* a, const ModelKey* b) { return NaturalLess(a->name, b->name); });
  for (size_t i = 0; i < count; ++i) {
    const ModelKey& key = *mismatched[i];
    report.mismatched_keys.push_back({.key = std::string(key.name),
                                      .expected_shape = key.shape,
                                      .found_shape = keys.StoredShape(key),
                                      .expected_dtype = key.dtype,
                                      .found_dtype = keys.StoredDType(key)});
  }
  return absl::OkStatus();
}

void AddTensors(const CheckpointIndex& index, const LoadPlan& plan, LoadReport& report) {
  struct Totals {
    uint64_t tensors = 0;
    uint64_t bytes = 0;
    uint32_t engines = 0;
  };
  std::map<uint32_t, Totals> totals;
  for (const PlannedTensor& tensor : plan.tensors) {
    const PlannedSegment& segment = plan.segments[tensor.segment];
    DeviceUse& use = report.devices[segment.device];
    ++use.tensors;
    use.tensor_bytes += tensor.bytes;
    const Engine engine = segment.kind == SegmentKind::kFile ? Engine::kMapped : Engine::kBuffered;
    for (const PlannedTensor& part : plan.PartsOf(tensor)) {
      Totals& shard = totals[part.shard];
      ++shard.tensors;
      shard.bytes += part.stored_bytes;
      shard.engines |= 1u << static_cast<uint32_t>(engine);
    }
  }
  for (const auto& [shard, total] : totals) {
    report.shards.push_back({.file = index.shards()[shard].file,
                             .tensors = total.tensors,
                             .selected_bytes = total.bytes,
                             .read_bytes = 0,
                             .engine = EngineNames(total.engines),
                             .duration = absl::ZeroDuration()});
  }
}

}  // namespace keyload
