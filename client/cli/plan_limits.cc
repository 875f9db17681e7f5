#include "client/cli/plan_limits.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/byte_size.h"

namespace keyload::cli {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint64_t kFirstTried = 64;
constexpr uint64_t kMostTried = uint64_t{1} << 50;
constexpr uint64_t kSearchSteps = 256;  // a limit is found to a part in so many

bool IsGpu(const std::string& device) { return device.starts_with("cuda"); }

// "0" is "cuda:0", a uuid its device.
std::string OwnName(const std::string& name, const v1::ListDevicesResponse& devices) {
  if (name == "cuda") return "cuda:0";
  if (!name.empty() && std::all_of(name.begin(), name.end(), absl::ascii_isdigit)) return "cuda:" + name;
  for (const v1::Device& device : devices.devices()) {
    if (device.uuid() == name) return device.device();
  }
  return name;
}

// In tenths of a GiB or whole MiB, so that it can be read and typed; in bytes where that would be coarse.
uint64_t RoundUp(uint64_t bytes) {
  const uint64_t unit = bytes >= 4 * kGiB ? kGiB / 10 + 1 : bytes >= 64 * kMiB ? kMiB : 1;
  return (bytes + unit - 1) / unit * unit;
}

std::string SizeText(uint64_t bytes) {
  if (bytes >= 4 * kGiB) return absl::StrFormat("%.1fGiB", static_cast<double>(bytes) / static_cast<double>(kGiB));
  return bytes >= 64 * kMiB && bytes % kMiB == 0 ? absl::StrFormat("%dMiB", bytes / kMiB) : std::to_string(bytes);
}

bool IsPolicy(const std::string& policy) {
  return policy == "auto" || policy == "sequential" || policy == "packed" || policy == "balanced" ||
         policy == "balanced_low_0";
}

bool AllOnGpus(const v1::LoadReport& report) {
  return std::all_of(report.device_map().begin(), report.device_map().end(),
                     [](const v1::MapEntry& entry) { return IsGpu(entry.device()); });
}

v1::LoadSpec WithGpuLimit(v1::LoadSpec spec, const DeviceLimits& limits, uint64_t bytes) {
  auto& max_memory = *spec.mutable_device_map()->mutable_max_memory();
  max_memory.clear();
  for (const auto& [device, limit] : limits) {
    if (IsGpu(device)) max_memory[device] = bytes;
  }
  spec.set_name_limit(1);
  spec.clear_limits();
  return spec;
}

// The least limit for all GPUs alike with which nothing is placed elsewhere.
std::optional<uint64_t> LimitThatWouldDo(const v1::LoadSpec& spec, const v1::LoadReport& report,
                                         const DeviceLimits& limits, const PlanCall& plan) {
  const auto holds = [&](uint64_t bytes) {
    const auto probe = plan(WithGpuLimit(spec, limits, bytes));
    return probe.ok() && AllOnGpus(*probe);
  };
  // A report does not count what stays on disk, so how much is enough is found by doubling.
  uint64_t short_of = 0;
  uint64_t enough = kFirstTried;
  for (const v1::DeviceUse& use : report.devices()) enough += use.tensor_bytes() + use.missing_bytes();
  for (; !holds(enough); enough *= 2) {
    if (enough > kMostTried) return std::nullopt;
    short_of = enough;
  }
  while (enough - short_of > 1 + enough / kSearchSteps) {
    const uint64_t middle = short_of + (enough - short_of) / 2;
    (holds(middle) ? enough : short_of) = middle;
  }
  // More room is not always better for a policy that follows accelerate, so what is said is what was tried.
  const uint64_t rounded = RoundUp(enough);
  return rounded == enough || holds(rounded) ? rounded : enough;
}

std::string GpuOverflow(const v1::LoadSpec& spec, const v1::LoadReport& report, const DeviceLimits& limits,
                        const PlanCall& plan) {
  if (AllOnGpus(report)) return "";
  std::vector<std::string> where;
  for (const PlannedDevice& device : PlannedDevices(report, {})) {
    if (IsGpu(device.device)) continue;
    const std::string size =
        device.placed_bytes == 0 ? "" : absl::StrFormat(" (%s)", FormatByteSize(device.placed_bytes));
    where.push_back(absl::StrFormat("%s on %s%s", device.modules, device.device, size));
  }
  const std::string what = absl::StrFormat("does not fit on the GPUs: %s", absl::StrJoin(where, "; "));
  const std::optional<uint64_t> bytes = LimitThatWouldDo(spec, report, limits, plan);
  if (!bytes) return what + "\n";
  std::vector<std::string> flags;
  for (const PlannedDevice& device : PlannedDevices({}, limits)) {
    if (IsGpu(device.device)) flags.push_back(absl::StrFormat("%s=%s", device.device, SizeText(*bytes)));
  }
  return absl::StrFormat("%s; --max-memory %s would do\n", what, absl::StrJoin(flags, ","));
}

std::string TooSmallDevices(const v1::LoadReport& report, const DeviceLimits& limits) {
  std::vector<std::string> found;
  for (const v1::DeviceUse& use : report.devices()) {
    const auto limit = limits.find(use.device());
    if (limit == limits.end() || use.reserved_bytes() <= limit->second) continue;
    found.push_back(absl::StrFormat("%s needs %s and has %s", use.device(), FormatByteSize(use.reserved_bytes()),
                                    FormatByteSize(limit->second)));
  }
  return found.empty() ? "" : absl::StrFormat("does not fit: %s\n", absl::StrJoin(found, "; "));
}

// Where the map is the caller's: the devices that it uses, and of what is mapped on cpu nothing, as it takes no memory.
DeviceLimits LimitsThatCount(const v1::LoadReport& report, const DeviceLimits& limits) {
  DeviceLimits used;
  for (const v1::DeviceUse& use : report.devices()) {
    const auto limit = limits.find(use.device());
    if (limit != limits.end() && (IsGpu(use.device()) || use.reserved_bytes() > 0)) used.insert(*limit);
  }
  return used;
}

}  // namespace

PlanSpace FindPlanSpace(Client& client, const v1::LoadSpec& spec, const CallOptions& options) {
  const auto devices = client.ListDevices(options);
  if (!devices.ok()) return {};
  PlanSpace space;
  v1::DeviceMapSpec map = spec.device_map();
  if (!map.name().empty()) {
    const auto kept = client.GetDeviceMap(map.name(), options);
    if (!kept.ok()) return {};
    const bool replaced = map.entries_size() > 0 || !(map.policy().empty() || IsPolicy(map.policy()));
    if (map.policy().empty() && map.entries_size() == 0) map.set_policy(kept->spec().policy());
    if (!replaced) map.mutable_max_memory()->insert(kept->spec().max_memory().begin(), kept->spec().max_memory().end());
  }
  space.chooses = IsPolicy(map.policy());
  for (const auto& [device, bytes] : map.max_memory()) {
    if (device != "disk") space.limits[OwnName(device, *devices)] = bytes;
  }
  if (!space.limits.empty()) return space;
  for (const v1::VirtualDevice& device : map.plan_for()) space.limits[device.device()] = device.bytes();
  if (!space.limits.empty()) return space;
  for (const v1::Device& device : devices->devices()) space.limits[device.device()] = device.free_bytes();
  return space;
}

std::string PlanText(const v1::LoadSpec& spec, const v1::LoadReport& report, const PlanSpace& space,
                     const PlanCall& plan) {
  const DeviceLimits limits = space.chooses ? space.limits : LimitsThatCount(report, space.limits);
  const bool gpus = std::any_of(limits.begin(), limits.end(), [](const auto& limit) { return IsGpu(limit.first); });
  std::string out = PlanMapText(PlannedDevices(report, limits), limits);
  if (!space.chooses) return out + TooSmallDevices(report, limits);
  return gpus ? out + GpuOverflow(spec, report, limits, plan) : out;
}

}  // namespace keyload::cli
