#include "client/cli/plan_text.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <tuple>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/byte_size.h"

namespace keyload::cli {
namespace {

constexpr int kBarWidth = 40;
constexpr size_t kModulesShown = 8;

// A run of modules that differ in their last component alone, which is a number and counts up.
struct ModuleRun {
  std::string first;
  std::string parent;  // with the dot, of numbered ones
  uint64_t from = 0;
  uint64_t to = 0;
  bool numbered = false;

  explicit ModuleRun(const std::string& module) : first(module) {
    const size_t number = module.rfind('.') == std::string::npos ? 0 : module.rfind('.') + 1;
    numbered = absl::SimpleAtoi(module.substr(number), &from);
    parent = module.substr(0, number);
    to = from;
  }

  bool Takes(const ModuleRun& next) const {
    return numbered && next.numbered && next.parent == parent && next.from == to + 1;
  }
  std::string Text() const {
    if (first.empty()) return "everything";
    return to == from ? first : absl::StrFormat("%s-%d", first, to);
  }
};

std::string ModulesText(const std::vector<ModuleRun>& runs) {
  std::vector<std::string> names;
  for (size_t i = 0; i < std::min(runs.size(), kModulesShown); ++i) names.push_back(runs[i].Text());
  if (runs.size() > kModulesShown) names.push_back(absl::StrFormat("and %d more", runs.size() - kModulesShown));
  return absl::StrJoin(names, ", ");
}

// GPUs ascending, then cpu, then disk.
std::tuple<int, uint64_t> Rank(const std::string& device) {
  constexpr std::string_view kGpu = "cuda:";
  uint64_t number = 0;
  if (device.starts_with(kGpu) && absl::SimpleAtoi(device.substr(kGpu.size()), &number)) return {0, number};
  return {device == "disk" ? 2 : 1, 0};
}

std::string Bar(uint64_t placed, uint64_t limit) {
  const double fill = limit == 0 ? (placed > 0 ? 1 : 0) : static_cast<double>(placed) / static_cast<double>(limit);
  const int full = static_cast<int>(std::lround(std::min(fill, 1.0) * kBarWidth));
  return "[" + std::string(full, '#') + std::string(kBarWidth - full, '.') + "]";
}

std::string UseText(const PlannedDevice& device, const DeviceLimits& limits) {
  const auto limit = limits.find(device.device);
  if (limit == limits.end()) return FormatByteSize(device.placed_bytes);
  const std::string use = absl::StrFormat("%s %s of %s", Bar(device.placed_bytes, limit->second),
                                          FormatByteSize(device.placed_bytes), FormatByteSize(limit->second));
  return device.placed_bytes <= limit->second
             ? absl::StrFormat("%s, %s free", use, FormatByteSize(limit->second - device.placed_bytes))
             : absl::StrFormat("%s, %s too much", use, FormatByteSize(device.placed_bytes - limit->second));
}

}  // namespace

std::vector<PlannedDevice> PlannedDevices(const v1::LoadReport& report, const DeviceLimits& limits) {
  std::map<std::string, PlannedDevice> by_name;
  std::map<std::string, std::vector<ModuleRun>> runs;
  for (const auto& [device, bytes] : limits) by_name[device].device = device;
  for (const v1::DeviceUse& use : report.devices()) {
    PlannedDevice& device = by_name[use.device()];
    device.device = use.device();
    device.placed_bytes = use.tensor_bytes() + use.missing_bytes();
    device.missing_bytes = use.missing_bytes();
    device.tensors = use.tensors();
  }
  for (const v1::MapEntry& entry : report.device_map()) {
    by_name[entry.device()].device = entry.device();
    std::vector<ModuleRun>& modules = runs[entry.device()];
    const ModuleRun next(entry.module());
    if (!modules.empty() && modules.back().Takes(next)) {
      modules.back().to = next.to;
    } else {
      modules.push_back(next);
    }
  }
  std::vector<PlannedDevice> devices;
  for (auto& [name, device] : by_name) {
    device.modules = ModulesText(runs[name]);
    devices.push_back(std::move(device));
  }
  std::stable_sort(devices.begin(), devices.end(),
                   [](const auto& a, const auto& b) { return Rank(a.device) < Rank(b.device); });
  return devices;
}

std::string PlanMapText(const std::vector<PlannedDevice>& devices, const DeviceLimits& limits) {
  size_t width = 0;
  for (const PlannedDevice& device : devices) width = std::max(width, device.device.size());
  std::string out = devices.empty() ? "" : "\n";
  for (const PlannedDevice& device : devices) {
    const std::string missing =
        device.missing_bytes == 0 ? "" : absl::StrFormat(", %s of it missing", FormatByteSize(device.missing_bytes));
    const bool in_files = device.placed_bytes == 0 && !limits.contains(device.device);
    const std::string use = in_files
                                ? "stays in the files"
                                : absl::StrFormat("%s, %d tensors%s", UseText(device, limits), device.tensors, missing);
    out += absl::StrFormat("%-*s  %s\n", static_cast<int>(width), device.device, use);
    if (!device.modules.empty()) {
      out += absl::StrFormat("%-*s  %s\n", static_cast<int>(width), "", device.modules);
    }
  }
  return out;
}

}  // namespace keyload::cli
