#include <algorithm>
#include <limits>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/placement/balanced_memory.h"
#include "server/placement/clean_device_map.h"
#include "server/placement/device_names.h"
#include "server/placement/device_table.h"
#include "server/placement/explicit_map.h"
#include "server/placement/infer_auto_device_map.h"
#include "server/placement/max_memory.h"
#include "server/placement/module_tree.h"
#include "server/placement/packed_map.h"
#include "server/placement/placement.h"

namespace keyload {
namespace {

constexpr std::string_view kSequential = "sequential";
constexpr std::string_view kLowZero = "balanced_low_0";
constexpr std::string_view kPacked = "packed";
constexpr std::string_view kPolicies = "auto, balanced, balanced_low_0, sequential, packed";
constexpr uint64_t kMaxModelBytes = uint64_t{1} << 60;

absl::Status CheckSpec(const DeviceMapSpec& spec) {
  if (!spec.policy.empty() && !spec.entries.empty()) {
    return MakeError(Reason::kDeviceMapInvalid, "device_map has both a policy and entries; give one of them");
  }
  return absl::OkStatus();
}

// Sizes come from headers and manifests. Below the limit no sum of them overflows, whatever is padded or converted.
absl::Status CheckTotalBytes(const PlacementModel& model) {
  uint64_t total = 0;
  for (const PlacementTensor& tensor : model.tensors) {
    if (tensor.bytes <= kMaxModelBytes - total) {
      total += tensor.bytes;
      continue;
    }
    return MakeError(
        Reason::kDeviceMapInvalid,
        StrCat("the tensors' sizes add up to more than 2^60 bytes at ", tensor.name.substr(0, kNameInMessage)),
        {{"key", std::string(tensor.name.substr(0, kNameInMessage))}});
  }
  return absl::OkStatus();
}

absl::StatusOr<Placement> PlaceOnOneDevice(const PlacementModel& model, std::string_view name,
                                           const DeviceNames& names) {
  absl::StatusOr<std::string> device = names.Normalise(name);
  if (!device.ok()) {
    if (LooksLikeDevice(name)) return device.status();
    return MakeError(Reason::kDeviceMapInvalid,
                     StrCat("device_map.policy \"", name.substr(0, kNameInMessage), "\" is neither a policy (",
                            kPolicies, ") nor a device; ", ToStd(device.status().message())),
                     {{"policy", std::string(name.substr(0, kNameInMessage))}});
  }
  Placement placement;
  placement.device_map.push_back({.module = "", .device = *device});
  SetDevices({*device}, std::vector<uint32_t>(model.tensors.size(), 0), placement);
  return placement;
}

std::vector<uint32_t> DeviceOfTensors(const PlacementModel& model, const ModuleTree& tree,
                                      std::vector<int32_t> device_of) {
  std::vector<uint32_t> devices(model.tensors.size());
  for (uint32_t i = 1; i < tree.items().size(); ++i) {
    if (device_of[i] < 0) device_of[i] = device_of[tree[i].parent];
    if (!tree[i].is_module()) devices[tree[i].tensor] = static_cast<uint32_t>(device_of[i]);
  }
  return devices;
}

// A partner that could not be brought along (its module was placed before, for the sake of another group) gets an
// entry.
void MapPartedTies(const PlacementModel& model, const ModuleTree& tree, std::vector<uint32_t>& tensors,
                   std::vector<int32_t>& items) {
  for (const std::vector<uint32_t>& group : model.tied_groups) {
    if (group.empty()) continue;
    const uint32_t first = *std::min_element(group.begin(), group.end());
    for (const uint32_t member : group) {
      if (tensors[member] == tensors[first]) continue;
      tensors[member] = tensors[first];
      items[tree.ItemOf(member)] = static_cast<int32_t>(tensors[first]);
    }
  }
}

void Warn(const InferredMap& map, const std::vector<DeviceLimit>& limits, bool low_zero,
          std::vector<std::string>& warnings) {
  for (const EmptyDevice& empty : map.empty_devices) {
    const DeviceLimit& limit = limits[empty.device];
    if (limit.bytes == 0 || low_zero) continue;
    warnings.push_back(StrCat("nothing was placed on ", limit.device, ": the part tried needs ", empty.needed_bytes,
                              " bytes with the space to bring back a layer, the limit is ", limit.bytes));
  }
  if (map.stranded_buffer_bytes == 0) return;
  warnings.push_back(
      StrCat("the buffers of offloaded modules take ", map.stranded_buffer_bytes,
             " bytes and fit on no GPU beside what is placed there; offload_buffers leaves them with their modules"));
}

// The policies that follow accelerate: the entries per item of the tree.
absl::StatusOr<std::vector<int32_t>> InferByLimits(const PlacementModel& model, const ModuleTree& tree,
                                                   const DeviceMapSpec& spec, std::vector<DeviceLimit> limits,
                                                   const RequestContext* context, std::vector<std::string>& warnings) {
  const bool low_zero = spec.policy == kLowZero;
  if (spec.policy != kSequential) {
    limits = BalanceMemory(tree, std::move(limits), {.low_zero = low_zero, .limits_given = !spec.max_memory.empty()});
  }
  KEYLOAD_ASSIGN_OR_RETURN(InferredMap map, InferAutoDeviceMap(model, tree, limits,
                                                               {.offload_buffers = spec.offload_buffers,
                                                                .fallback_allocation = spec.fallback_allocation,
                                                                .context = context}));
  Warn(map, limits, low_zero, warnings);
  return std::move(map.device_of);
}

absl::StatusOr<Placement> PlaceByPolicy(const PlacementModel& model, const DeviceMapSpec& spec,
                                        const DeviceNames& names, const std::vector<PlacementDevice>& devices,
                                        const RequestContext* context) {
  KEYLOAD_ASSIGN_OR_RETURN(const std::vector<DeviceLimit> limits, ResolveMaxMemory(spec, names, devices));
  KEYLOAD_ASSIGN_OR_RETURN(const ModuleTree tree, ModuleTree::Create(model, context));
  if (context != nullptr) KEYLOAD_RETURN_IF_ERROR(context->Check());
  Placement placement;
  std::vector<int32_t> entries;
  if (spec.policy == kPacked) {
    entries = PackDeviceMap(model, tree, limits);
  } else {
    KEYLOAD_ASSIGN_OR_RETURN(entries, InferByLimits(model, tree, spec, limits, context, placement.warnings));
  }
  if (context != nullptr) KEYLOAD_RETURN_IF_ERROR(context->Check());
  std::vector<uint32_t> device_of = DeviceOfTensors(model, tree, entries);
  MapPartedTies(model, tree, device_of, entries);

  std::vector<std::string> device_names;
  for (const DeviceLimit& limit : limits) device_names.push_back(limit.device);
  device_names.emplace_back(kDiskDevice);
  for (const TreeMapEntry& entry : CleanDeviceMap(tree, entries)) {
    placement.device_map.push_back(
        {.module = std::string(tree[entry.item].name), .device = device_names[static_cast<size_t>(entry.device)]});
  }
  SetDevices(device_names, device_of, placement);
  return placement;
}

}  // namespace

bool IsPolicy(std::string_view policy) {
  return policy == "auto" || policy == "balanced" || policy == kLowZero || policy == kSequential || policy == kPacked;
}

absl::StatusOr<Placement> Place(const PlacementModel& model, const DeviceMapSpec& spec,
                                const std::vector<PlacementDevice>& devices, const RequestContext* context) {
  KEYLOAD_RETURN_IF_ERROR(CheckSpec(spec));
  KEYLOAD_RETURN_IF_ERROR(CheckTotalBytes(model));
  const DeviceNames names(devices);
  if (IsPolicy(spec.policy)) return PlaceByPolicy(model, spec, names, devices, context);
  const std::string_view device = spec.policy.empty() ? kCpuDevice : std::string_view(spec.policy);
  absl::StatusOr<Placement> placement = spec.entries.empty() ? PlaceOnOneDevice(model, device, names)
                                                             : PlaceExplicitly(model, spec.entries, names, context);
  if (placement.ok() && !spec.max_memory.empty()) {
    return MakeError(Reason::kDeviceMapInvalid, StrCat("device_map.max_memory limits a policy (", kPolicies,
                                                       "); a map that names its devices takes none"));
  }
  return placement;
}

}  // namespace keyload
