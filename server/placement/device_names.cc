#include "server/placement/device_names.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr std::string_view kGpuPrefix = "cuda:";
constexpr size_t kKnownInMessage = 1500;

bool IsNumber(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::string Alias(std::string_view name) {
  if (name == "cuda") return "cuda:0";
  if (uint32_t index; IsNumber(name) && absl::SimpleAtoi(ToAbsl(name), &index)) return StrCat(kGpuPrefix, index);
  return std::string(name);
}

}  // namespace

DeviceNames::DeviceNames(const std::vector<PlacementDevice>& devices) {
  for (const PlacementDevice& device : devices) {
    canonical_.emplace(device.name, device.name);
    if (!device.uuid.empty()) canonical_.emplace(device.uuid, device.name);
    if (known_.size() < kKnownInMessage) StrAppend(&known_, device.name, ", ");
  }
  // Every machine has these, also one that is only planned for and of which no more than its GPUs is told.
  if (canonical_.emplace(kCpuDevice, kCpuDevice).second) StrAppend(&known_, kCpuDevice, ", ");
  canonical_.emplace(kDiskDevice, kDiskDevice);
  StrAppend(&known_, kDiskDevice);
}

absl::StatusOr<std::string> DeviceNames::Normalise(std::string_view name) const {
  const auto found = canonical_.find(Alias(name));
  if (found != canonical_.end()) return found->second;
  const std::string shown(name.substr(0, kNameInMessage));
  return MakeError(Reason::kDeviceUnknown, StrCat("device \"", shown, "\" is not known here; known are ", known_),
                   {{"device", shown}, {"known", known_}});
}

bool LooksLikeDevice(std::string_view name) {
  const std::string_view digits = name.substr(name.starts_with('-') ? 1 : 0);
  return name == kCpuDevice || name == kDiskDevice || name.starts_with("cuda") || name.starts_with("GPU-") ||
         IsNumber(digits);
}

int64_t GpuIndex(std::string_view device) {
  uint32_t index;
  if (!device.starts_with(kGpuPrefix) || !absl::SimpleAtoi(ToAbsl(device.substr(kGpuPrefix.size())), &index)) return -1;
  return index;
}

}  // namespace keyload
