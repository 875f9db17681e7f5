#pragma once

#include "absl/status/statusor.h"
#include "keyload/v1/model_loader.pb.h"
#include "server/service/device_map_table.h"
#include "server/service/load_spec.h"

namespace keyload {

// Entries and limits in the order of their names: a proto map has none.
DeviceMapSpec FromProto(const v1::DeviceMapSpec& message);

v1::NamedDeviceMap ToProto(const NamedDeviceMap& map);
// FIELD_NOT_SUPPORTED for a map within a map and for plan_for, which belong to requests.
absl::StatusOr<NamedDeviceMap> FromProto(const v1::NamedDeviceMap& message);

// `spec` with the map that it names written out: the same request as if the caller had done so. What the request says
// itself overrides that: a policy the kept policy and entries, entries the policy and those of the same module, limits
// those of the same device; classes are added. DEVICE_MAP_NOT_FOUND.
absl::StatusOr<v1::LoadSpec> WriteOutDeviceMap(const v1::LoadSpec& spec, const DeviceMapTable& maps);

}  // namespace keyload
