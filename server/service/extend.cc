#include "server/service/extend.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/placement/clean_device_map.h"
#include "server/placement/module_tree.h"
#include "server/service/plan_report.h"

namespace keyload {
namespace {

// `part` with its devices numbered as in `devices`, behind which come those that are not among them.
Placement Renumber(Placement part, std::vector<std::string> devices) {
  std::vector<uint16_t> number;
  for (const std::string& name : part.devices) {
    const auto it = std::find(devices.begin(), devices.end(), name);
    number.push_back(static_cast<uint16_t>(it - devices.begin()));
    if (it == devices.end()) devices.push_back(name);
  }
  for (uint16_t& device : part.device_of) device = number[device];
  part.devices = std::move(devices);
  return part;
}

// `full` without the tensors whose key has a device in `device_of_key`.
PlacementInput WithoutPlaced(const PlacementInput& full, const std::vector<uint16_t>& device_of_key) {
  PlacementInput part;
  part.model.modules = full.model.modules;
  part.model.no_split_classes = full.model.no_split_classes;
  std::vector<int64_t> kept_as(full.keys.size(), -1);
  for (uint32_t i = 0; i < full.keys.size(); ++i) {
    if (device_of_key[full.keys[i]] != ResidentModel::kNoDevice) continue;
    kept_as[i] = static_cast<int64_t>(part.keys.size());
    part.keys.push_back(full.keys[i]);
    part.dtypes.push_back(full.dtypes[i]);
    part.model.tensors.push_back(full.model.tensors[i]);
  }
  for (const std::vector<uint32_t>& group : full.model.tied_groups) {
    std::vector<uint32_t> kept;
    for (const uint32_t member : group) {
      if (kept_as[member] >= 0) kept.push_back(static_cast<uint32_t>(kept_as[member]));
    }
    if (kept.size() > 1) part.model.tied_groups.push_back(std::move(kept));
  }
  return part;
}

// `first` with everything of `second` behind it, whose devices begin with those of `first`. Nothing runs the whole of
// it, so that it has neither runs nor extents.
std::shared_ptr<const LoadPlan> Join(const LoadPlan& first, const LoadPlan& second) {
  auto joined = std::make_shared<LoadPlan>(first);
  joined->runs.clear();
  joined->extents.clear();
  joined->sorted_reads.clear();
  joined->devices = second.devices;
  const auto first_segment = static_cast<uint32_t>(first.segments.size());
  const auto first_tensor = static_cast<uint32_t>(first.tensors.size());
  const auto first_part = static_cast<uint32_t>(first.parts.size());
  joined->segments.insert(joined->segments.end(), second.segments.begin(), second.segments.end());
  for (PlannedTensor tensor : second.tensors) {
    tensor.segment += first_segment;
    tensor.first_part += first_part;
    joined->tensors.push_back(tensor);
  }
  for (PlannedTensor part : second.parts) {
    part.segment += first_segment;
    joined->parts.push_back(part);
  }
  for (const TiedDuplicate& copy : second.duplicates) {
    joined->duplicates.push_back({.tensor = first_tensor + copy.tensor, .provider = first_tensor + copy.provider});
  }
  joined->lazy_keys.insert(joined->lazy_keys.end(), second.lazy_keys.begin(), second.lazy_keys.end());
  joined->reserve_bytes.resize(joined->devices.size());
  for (size_t i = 0; i < second.devices.size(); ++i) joined->reserve_bytes[i] += second.reserve_bytes[i];
  joined->selected_bytes += second.selected_bytes;
  joined->mapped_bytes += second.mapped_bytes;
  return joined;
}

// Where all of `input` is afterwards. A policy's map of the new keys alone would say the same of modules that have keys
// on other devices, so the map is made anew from all of them.
absl::StatusOr<Placement> JoinPlacements(const PlacementInput& input, const ResidentModel& model,
                                         const PlacementInput& part_input, const Placement& part,
                                         const RequestContext& context) {
  std::vector<uint16_t> device_of_key = model.content().device_of_key;
  for (size_t i = 0; i < part_input.keys.size(); ++i) device_of_key[part_input.keys[i]] = part.device_of[i];
  Placement joined;
  joined.warnings = part.warnings;
  joined.devices = part.devices;
  KEYLOAD_ASSIGN_OR_RETURN(const ModuleTree tree, ModuleTree::Create(input.model, &context));
  std::vector<int32_t> device_of_item(tree.items().size(), -1);
  for (uint32_t i = 0; i < input.keys.size(); ++i) {
    joined.device_of.push_back(device_of_key[input.keys[i]]);
    device_of_item[tree.ItemOf(i)] = joined.device_of.back();
  }
  for (const TreeMapEntry& entry : CleanDeviceMap(tree, device_of_item)) {
    joined.device_map.push_back(
        {.module = std::string(tree[entry.item].name), .device = joined.devices[static_cast<size_t>(entry.device)]});
  }
  return joined;
}

// What the model is afterwards, of which this load does the part alone.
LoadReport JoinReports(LoadReport whole, LoadReport part, const std::vector<DeviceUse>& before) {
  for (size_t i = 0; i < whole.devices.size(); ++i) {
    whole.devices[i].reserved_bytes =
        part.devices[i].reserved_bytes + (i < before.size() ? before[i].reserved_bytes : 0);
  }
  whole.bytes = part.bytes;
  whole.shards = std::move(part.shards);
  return whole;
}

}  // namespace

bool SelectsMore(const ResidentModel& model, const KeyReport& keys) {
  for (size_t i = 0; i < keys.keys.size(); ++i) {
    if (model.content().keys->keys[i].state == KeyState::kNotSelected && keys.keys[i].state != KeyState::kNotSelected)
      return true;
  }
  return false;
}

absl::StatusOr<PreparedPlan> PrepareExtension(const LoadSpec& spec, const PreparedKeys& prepared,
                                              const ResidentModel& model, std::vector<PlacementDevice> devices,
                                              const DeviceSet& node, const RequestContext& context, PhaseClock& clock) {
  clock.Enter("place");
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  PlacementInput input = MakeInput(spec, prepared);
  const PlacementInput part_input = WithoutPlaced(input, model.content().device_of_key);
  Placement part;
  if (!part_input.keys.empty()) {
    KEYLOAD_ASSIGN_OR_RETURN(part, Place(part_input.model, spec.device_map, devices, &context));
  }
  part = Renumber(std::move(part), model.content().devices);
  clock.Enter("plan");
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  PreparedPlan result;
  result.added = BuildLoadPlan(*prepared.keys, part_input, part, PlanOptionsOf(spec, prepared));
  result.plan = Join(*model.content().plan, *result.added);
  KEYLOAD_ASSIGN_OR_RETURN(result.placement, JoinPlacements(input, model, part_input, part, context));
  KEYLOAD_ASSIGN_OR_RETURN(LoadReport part_report,
                           MakePlanReport(spec, prepared, part_input, part, *result.added, devices, node, context));
  result.added_devices = part_report.devices;
  // What the model holds is not needed again.
  const std::vector<DeviceUse> before = model.LiveDevices();
  for (const DeviceUse& use : before) {
    for (PlacementDevice& device : devices) device.free_bytes += device.name == use.device ? use.reserved_bytes : 0;
  }
  KEYLOAD_ASSIGN_OR_RETURN(
      LoadReport whole, MakePlanReport(spec, prepared, input, result.placement, *result.plan, devices, node, context));
  result.report = JoinReports(std::move(whole), std::move(part_report), before);
  result.placed_keys = std::move(input.keys);
  return result;
}

ResidentModel::Content MakeExtendedContent(const LoadSpec& spec, const PreparedKeys& prepared, PreparedPlan& plan,
                                           const ResidentModel& model, LoadedTensors loaded, LoadReport& report) {
  ResidentModel::Content content = model.content();
  const auto first_tensor = static_cast<uint32_t>(content.plan->tensors.size());
  content.keys = prepared.keys;
  content.plan = plan.plan;
  for (uint32_t i = 0; i < plan.added->tensors.size(); ++i) {
    content.tensor_of_key[plan.added->tensors[i].key] = first_tensor + i;
  }
  for (const TiedDuplicate& copy : loaded.transferred.equal_duplicates) {
    content.tensor_of_key[plan.added->tensors[copy.tensor].key] = first_tensor + copy.provider;
  }
  for (const TiedDuplicate& copy : loaded.transferred.conflicts) {
    content.conflicts.push_back({.tensor = first_tensor + copy.tensor, .provider = first_tensor + copy.provider});
  }
  for (const uint32_t key : plan.added->lazy_keys) content.tensor_of_key[key] = ResidentModel::kInFile;
  SetDevices(plan, content);
  KeepHeld(std::move(loaded.held), content);
  content.residency->Append(plan.plan, ResidencyOf(spec, plan.added, std::move(loaded)));
  FinishReport(content, report);
  content.load_time = absl::Now();
  return content;
}

}  // namespace keyload
