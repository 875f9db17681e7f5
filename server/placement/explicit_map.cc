#include "server/placement/explicit_map.h"

#include <algorithm>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/placement/device_table.h"
#include "server/placement/name_trie.h"

namespace keyload {
namespace {

constexpr size_t kTensorsNamed = 5;
constexpr size_t kEntriesNamed = 10;
constexpr uint32_t kNoDevice = UINT32_MAX;
constexpr uint64_t kHeapPerComponent = 2 * sizeof(NameTrie::Node) + 64;  // lists that grow are there twice

std::string Quoted(std::string_view name) { return StrCat("\"", name.substr(0, kNameInMessage), "\""); }

class ExplicitMap {
 public:
  absl::Status Add(std::string_view module, const std::string& device) {
    const uint32_t node = trie_.Insert(module);
    device_at_.resize(trie_.nodes().size(), kNoDevice);
    const uint32_t number = Number(device);
    if (device_at_[node] == kNoDevice) {
      entries_.push_back(node);
    } else if (device_at_[node] != number) {
      return MakeError(
          Reason::kDeviceMapInvalid,
          StrCat("the device map sends ", Quoted(module), " to ", devices_[device_at_[node]], " and to ", device),
          {{"module", std::string(module.substr(0, kNameInMessage))}});
    }
    device_at_[node] = number;
    return absl::OkStatus();
  }

  // The device of the longest entry that is a dotted prefix of `name`. visit(node) for each entry that is one, shortest
  // first.
  template <typename Visit>
  uint32_t Find(std::string_view name, Visit visit) const {
    uint32_t device = kNoDevice;
    uint32_t node = NameTrie::kRoot;
    const auto take = [&] {
      if (device_at_[node] == kNoDevice) return;
      device = device_at_[node];
      visit(node);
    };
    take();
    ForEachComponent(name, 0, [&](std::string_view component, size_t) {
      const std::optional<uint32_t> child = trie_.Child(node, component);
      if (!child) return false;
      node = *child;
      take();
      return true;
    });
    return device;
  }

  const std::vector<std::string>& devices() const { return devices_; }
  const std::vector<uint32_t>& entries() const { return entries_; }  // nodes, in the order given
  size_t node_count() const { return trie_.nodes().size(); }
  std::string_view NameOf(uint32_t node) const { return trie_.nodes()[node].name; }
  const std::string& DeviceAt(uint32_t node) const { return devices_[device_at_[node]]; }

 private:
  uint32_t Number(const std::string& device) {
    const auto [known, inserted] = numbers_.try_emplace(device, static_cast<uint32_t>(devices_.size()));
    if (inserted) devices_.push_back(device);
    return known->second;
  }

  NameTrie trie_;
  std::vector<uint32_t> device_at_;  // per node: index into devices_
  std::vector<uint32_t> entries_;
  std::vector<std::string> devices_;
  absl::flat_hash_map<std::string, uint32_t> numbers_;
};

// Each component of an entry is a node of the trie, and an entry of two bytes may have two.
absl::Status CountEntries(const std::vector<std::pair<std::string, std::string>>& entries,
                          const RequestContext* context) {
  if (context == nullptr) return absl::OkStatus();
  uint64_t components = 0;
  for (const auto& [module, device] : entries) {
    components += 1 + static_cast<uint64_t>(std::count(module.begin(), module.end(), '.'));
  }
  return context->TakeHeap(components * kHeapPerComponent, "the device map");
}

// What the model computes itself is placed for its size alone: where no entry says more, it goes with the tensor that
// is registered before it.
void PlaceComputed(const PlacementModel& model, std::vector<uint32_t>& device_of) {
  const auto placed = std::find_if(device_of.begin(), device_of.end(), [](uint32_t at) { return at != kNoDevice; });
  uint32_t device = placed == device_of.end() ? kNoDevice : *placed;
  for (size_t i = 0; i < device_of.size(); ++i) {
    if (device_of[i] == kNoDevice && model.tensors[i].computed) device_of[i] = device;
    if (device_of[i] != kNoDevice) device = device_of[i];
  }
}

absl::Status CheckComplete(const PlacementModel& model, const std::vector<uint32_t>& device_of) {
  size_t lacking = 0;
  std::string names;
  for (size_t i = 0; i < device_of.size(); ++i) {
    if (device_of[i] != kNoDevice) continue;
    if (lacking++ < kTensorsNamed) StrAppend(&names, names.empty() ? "" : ", ", Quoted(model.tensors[i].name));
  }
  if (lacking == 0) return absl::OkStatus();
  return MakeError(Reason::kDeviceMapIncomplete,
                   StrCat("the device map gives no device to ", lacking, " of ", device_of.size(), " tensors: ", names,
                          lacking > kTensorsNamed ? ", ..." : ""),
                   {{"count", StrCat(lacking)}});
}

void FollowFirstMembers(const PlacementModel& model, std::vector<uint32_t>& device_of,
                        std::vector<std::string>& warnings) {
  size_t moved_groups = 0;
  std::string example;
  for (const std::vector<uint32_t>& group : model.tied_groups) {
    if (group.empty()) continue;
    const uint32_t first = *std::min_element(group.begin(), group.end());
    bool moved = false;
    for (const uint32_t member : group) {
      moved |= device_of[member] != device_of[first];
      device_of[member] = device_of[first];
    }
    if (moved && moved_groups++ == 0) example = Quoted(model.tensors[first].name);
  }
  if (moved_groups == 0) return;
  warnings.push_back(StrCat("the device map parts ", moved_groups, moved_groups == 1 ? " tied group" : " tied groups",
                            ", each goes where its first member goes; the first is that of ", example));
}

void WarnOfUnmatched(const ExplicitMap& map, const std::vector<bool>& matched, std::vector<std::string>& warnings) {
  size_t unmatched = 0;
  std::string names;
  for (const uint32_t entry : map.entries()) {
    if (matched[entry]) continue;
    if (unmatched++ < kEntriesNamed) StrAppend(&names, names.empty() ? "" : ", ", Quoted(map.NameOf(entry)));
  }
  if (unmatched == 0) return;
  warnings.push_back(StrCat(unmatched, unmatched == 1 ? " entry" : " entries", " of the device map ",
                            unmatched == 1 ? "matches" : "match", " nothing: ", names,
                            unmatched > kEntriesNamed ? ", ..." : ""));
}

}  // namespace

absl::StatusOr<Placement> PlaceExplicitly(const PlacementModel& model,
                                          const std::vector<std::pair<std::string, std::string>>& entries,
                                          const DeviceNames& names, const RequestContext* context) {
  KEYLOAD_RETURN_IF_ERROR(CountEntries(entries, context));
  ExplicitMap map;
  PeriodicCheck check(context);
  for (const auto& [module, name] : entries) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    KEYLOAD_ASSIGN_OR_RETURN(const std::string device, names.Normalise(name));
    KEYLOAD_RETURN_IF_ERROR(map.Add(module, device));
  }
  Placement placement;
  std::vector<bool> matched(map.node_count());
  std::vector<uint32_t> device_of;
  device_of.reserve(model.tensors.size());
  for (const PlacementTensor& tensor : model.tensors) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    device_of.push_back(map.Find(tensor.name, [&](uint32_t entry) {
      if (matched[entry]) return;
      matched[entry] = true;
      placement.device_map.push_back({.module = std::string(map.NameOf(entry)), .device = map.DeviceAt(entry)});
    }));
  }
  PlaceComputed(model, device_of);
  KEYLOAD_RETURN_IF_ERROR(CheckComplete(model, device_of));
  for (const ModuleSpec& module : model.modules) map.Find(module.name, [&](uint32_t entry) { matched[entry] = true; });
  matched[NameTrie::kRoot] = true;
  WarnOfUnmatched(map, matched, placement.warnings);
  FollowFirstMembers(model, device_of, placement.warnings);
  SetDevices(map.devices(), device_of, placement);
  return placement;
}

}  // namespace keyload
