#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/keys/manifest.h"

namespace keyload {

// A device as placement sees it: a snapshot.
struct PlacementDevice {
  std::string name;  // "cuda:0", "cpu"
  std::string uuid;
  uint64_t free_bytes = 0;
};

struct PlacementTensor {
  std::string_view name;
  uint64_t bytes = 0;  // what it will occupy, after dtype conversion
  bool buffer = false;
  bool computed = false;  // a non-persistent buffer: no checkpoint has it, so an explicit map need not name its device
};

// What is placed. Tensors are in registration order.
struct PlacementModel {
  std::vector<PlacementTensor> tensors;
  std::vector<ModuleSpec> modules;  // registration order, without the root; empty: derived from dotted names
  std::vector<std::string> no_split_classes;
  std::vector<std::vector<uint32_t>>
      tied_groups;  // indices into tensors; a group's bytes count once, at its first member
};

// A request's wish. Device names as in the contract: "cpu", "disk", "cuda:N", a bare N, a uuid.
struct DeviceMapSpec {
  std::string
      policy;  // auto, balanced, balanced_low_0, sequential, packed, or a device; empty: "cpu" unless entries are given
  std::vector<std::pair<std::string, std::string>> entries;  // module or key ("" = all) -> device
  std::vector<std::pair<std::string, uint64_t>> max_memory;  // if given, devices not named are not used
  bool offload_buffers = false;
  bool fallback_allocation = false;
};

// Whether a DeviceMapSpec::policy is one that chooses among devices, and can do so otherwise when memory is short; a
// device or a map is what the caller wants.
bool IsPolicy(std::string_view policy);

struct MapEntry {
  std::string module;
  std::string device;
  bool operator==(const MapEntry&) const = default;
};

struct Placement {
  std::vector<MapEntry> device_map;   // registration order, collapsed as accelerate's clean_device_map does
  std::vector<std::string> devices;   // distinct devices of device_of, in order of first use
  std::vector<uint16_t> device_of;    // per tensor: index into `devices`
  std::vector<std::string> warnings;  // entries that match nothing, buffers that fit on no GPU
};

// Decides where every tensor goes. Pure; never blocks. `context` is asked now and then; null: never. Its errors, and
// DEVICE_UNKNOWN, DEVICE_MAP_INVALID (policy with entries, unknown policy, bad limits), DEVICE_MAP_INCOMPLETE (a tensor
// has no device; names the first ones and the count). Explicit maps: the longest dotted prefix wins. The policies
// follow accelerate's infer_auto_device_map and get_balanced_memory, but for "packed": see packed_map.h.
absl::StatusOr<Placement> Place(const PlacementModel& model, const DeviceMapSpec& spec,
                                const std::vector<PlacementDevice>& devices, const RequestContext* context = nullptr);

}  // namespace keyload
