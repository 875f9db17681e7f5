#include "server/rpc/convert_device_map.h"

#include <algorithm>
#include <utility>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {

DeviceMapSpec FromProto(const v1::DeviceMapSpec& message) {
  DeviceMapSpec spec = {.policy = message.policy(),
                        .entries = {message.entries().begin(), message.entries().end()},
                        .max_memory = {message.max_memory().begin(), message.max_memory().end()},
                        .offload_buffers = message.offload_buffers(),
                        .fallback_allocation = message.fallback_allocation()};
  std::sort(spec.entries.begin(), spec.entries.end());
  std::sort(spec.max_memory.begin(), spec.max_memory.end());
  return spec;
}

v1::NamedDeviceMap ToProto(const NamedDeviceMap& map) {
  v1::NamedDeviceMap message;
  message.set_name(map.name);
  message.set_etag(map.etag);
  v1::DeviceMapSpec& spec = *message.mutable_spec();
  spec.set_policy(map.spec.policy);
  spec.mutable_entries()->insert(map.spec.entries.begin(), map.spec.entries.end());
  spec.mutable_max_memory()->insert(map.spec.max_memory.begin(), map.spec.max_memory.end());
  spec.mutable_no_split_classes()->Add(map.no_split_classes.begin(), map.no_split_classes.end());
  spec.set_offload_buffers(map.spec.offload_buffers);
  spec.set_fallback_allocation(map.spec.fallback_allocation);
  return message;
}

absl::StatusOr<NamedDeviceMap> FromProto(const v1::NamedDeviceMap& message) {
  for (const auto& [is_set, field] : {std::pair(!message.spec().name().empty(), "device_map.spec.name"),
                                      std::pair(message.spec().plan_for_size() > 0, "device_map.spec.plan_for")}) {
    if (is_set) {
      return MakeError(Reason::kFieldNotSupported, StrCat(field, " belongs to requests, not to a kept map"),
                       {{"field", field}});
    }
  }
  return NamedDeviceMap{
      .name = message.name(),
      .spec = FromProto(message.spec()),
      .no_split_classes = {message.spec().no_split_classes().begin(), message.spec().no_split_classes().end()},
      .etag = message.etag()};
}

absl::StatusOr<v1::LoadSpec> WriteOutDeviceMap(const v1::LoadSpec& spec, const DeviceMapTable& maps) {
  if (spec.device_map().name().empty()) return spec;
  KEYLOAD_ASSIGN_OR_RETURN(const NamedDeviceMap kept, maps.Get(spec.device_map().name()));
  v1::DeviceMapSpec written = ToProto(kept).spec();
  const v1::DeviceMapSpec& own = spec.device_map();
  if (!own.policy().empty()) written.clear_entries();
  if (own.entries_size() > 0) written.clear_policy();
  // Limits are for policies that choose among devices.
  const bool is_map = own.entries_size() > 0 || (!own.policy().empty() && !IsPolicy(own.policy()));
  if (is_map && own.max_memory_size() == 0) written.clear_max_memory();
  written.MergeFrom(own);
  written.clear_name();
  v1::LoadSpec result = spec;
  *result.mutable_device_map() = std::move(written);
  return result;
}

}  // namespace keyload
