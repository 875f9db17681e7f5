#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "server/base/mutex.h"
#include "server/placement/placement.h"

namespace keyload {

// A device map that requests may name instead of writing it out.
struct NamedDeviceMap {
  std::string name;
  DeviceMapSpec spec;
  std::vector<std::string> no_split_classes;
  std::string etag;  // another one for every change
};

// The kept maps. Bounded, so that one answer can list them: 1,000 maps, 2 MiB in all. Thread-safe.
class DeviceMapTable {
 public:
  // Keeps the map in the place of one with its name, and returns it with its new etag. With an etag, only if it is that
  // of the kept map: DEVICE_MAP_CHANGED else, DEVICE_MAP_NOT_FOUND when none is kept. BAD_REQUEST for a name that no
  // model could have; DEVICE_MAP_INVALID for a policy and entries; DEVICE_MAPS_FULL. Whether its devices exist is asked
  // when it is used.
  absl::StatusOr<NamedDeviceMap> Set(NamedDeviceMap map);
  // DEVICE_MAP_NOT_FOUND.
  absl::StatusOr<NamedDeviceMap> Get(std::string_view name) const;
  // DEVICE_MAP_NOT_FOUND; DEVICE_MAP_CHANGED when `etag` is given and not that of the kept map.
  absl::Status Delete(std::string_view name, std::string_view etag);
  // In order of their names those behind `after`, at most `most`.
  std::vector<NamedDeviceMap> List(std::string_view after, size_t most) const;
  // Keeps a map of a run before with the etag that it has, within the bounds; else not.
  void Restore(const NamedDeviceMap& map);

 private:
  const int64_t started_ = absl::ToUnixMicros(absl::Now());  // so that no etag comes again after a restart
  mutable Mutex mutex_;
  std::map<std::string, NamedDeviceMap, std::less<>> maps_ ABSL_GUARDED_BY(mutex_);
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace keyload
