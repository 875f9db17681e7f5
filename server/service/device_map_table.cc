#include "server/service/device_map_table.h"

#include <utility>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/service/model_name.h"

namespace keyload {
namespace {

constexpr size_t kMostMaps = 1000;
constexpr uint64_t kMostBytes = 2ull << 20;
constexpr uint64_t kEntryBytes = 16;  // of an entry beside its names, in an answer

uint64_t MapBytes(const NamedDeviceMap& map) {
  uint64_t bytes = map.name.size() + map.spec.policy.size() + kEntryBytes;
  for (const auto& [module, device] : map.spec.entries) bytes += module.size() + device.size() + kEntryBytes;
  for (const auto& [device, limit] : map.spec.max_memory) bytes += device.size() + kEntryBytes;
  for (const std::string& name : map.no_split_classes) bytes += name.size() + kEntryBytes;
  return bytes;
}

absl::Status CheckEtag(const NamedDeviceMap& kept, std::string_view etag) {
  if (etag.empty() || etag == kept.etag) return absl::OkStatus();
  return MakeError(Reason::kDeviceMapChanged, StrCat("device map ", kept.name, " was changed since it was read"),
                   {{"name", kept.name}, {"etag", kept.etag}});
}

absl::Status MapNotFound(std::string_view name) {
  const std::string shown(name.substr(0, kMostNameBytes));
  return MakeError(Reason::kDeviceMapNotFound, StrCat("no device map is kept as ", shown), {{"name", shown}});
}

}  // namespace

absl::StatusOr<NamedDeviceMap> DeviceMapTable::Set(NamedDeviceMap map) {
  if (!IsModelName(map.name)) {
    return MakeError(Reason::kBadRequest, StrCat("device_map.name must match ", kModelNamePattern),
                     {{"field", "device_map.name"}});
  }
  if (!map.spec.policy.empty() && !map.spec.entries.empty()) {
    return MakeError(Reason::kDeviceMapInvalid, StrCat("device map ", map.name, " has a policy and entries"),
                     {{"policy", map.spec.policy}});
  }
  MutexLock lock(mutex_);
  const auto kept = maps_.find(map.name);
  if (kept == maps_.end() && !map.etag.empty()) return MapNotFound(map.name);
  if (kept != maps_.end()) KEYLOAD_RETURN_IF_ERROR(CheckEtag(kept->second, map.etag));
  const uint64_t bytes = bytes_ + MapBytes(map) - (kept == maps_.end() ? 0 : MapBytes(kept->second));
  if (bytes > kMostBytes || (kept == maps_.end() && maps_.size() == kMostMaps)) {
    return MakeError(Reason::kDeviceMapsFull,
                     StrCat("over ", kMostMaps, " device maps, or ", kMostBytes, " bytes of them"),
                     {{"limit_bytes", StrCat(kMostBytes)}});
  }
  bytes_ = bytes;
  map.etag = StrCat(started_, "-", ++changes_);
  return maps_.insert_or_assign(map.name, map).first->second;
}

absl::StatusOr<NamedDeviceMap> DeviceMapTable::Get(std::string_view name) const {
  MutexLock lock(mutex_);
  const auto it = maps_.find(name);
  if (it == maps_.end()) return MapNotFound(name);
  return it->second;
}

absl::Status DeviceMapTable::Delete(std::string_view name, std::string_view etag) {
  MutexLock lock(mutex_);
  const auto it = maps_.find(name);
  if (it == maps_.end()) return MapNotFound(name);
  KEYLOAD_RETURN_IF_ERROR(CheckEtag(it->second, etag));
  bytes_ -= MapBytes(it->second);
  maps_.erase(it);
  return absl::OkStatus();
}

void DeviceMapTable::Restore(const NamedDeviceMap& map) {
  MutexLock lock(mutex_);
  if (bytes_ + MapBytes(map) > kMostBytes || maps_.size() == kMostMaps) return;
  if (maps_.emplace(map.name, map).second) bytes_ += MapBytes(map);
}

std::vector<NamedDeviceMap> DeviceMapTable::List(std::string_view after, size_t most) const {
  std::vector<NamedDeviceMap> maps;
  MutexLock lock(mutex_);
  for (auto it = maps_.upper_bound(after); it != maps_.end() && maps.size() < most; ++it) maps.push_back(it->second);
  return maps;
}

}  // namespace keyload
