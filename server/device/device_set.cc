#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/byte_size.h"
#include "server/device/device.h"

namespace keyload {

DeviceSet::DeviceSet(std::vector<std::unique_ptr<Device>> devices, std::vector<std::string> notes)
    : devices_(std::move(devices)), notes_(std::move(notes)) {}

std::vector<std::string> DeviceSet::notes() const {
  std::vector<std::string> notes = notes_;
  for (const std::unique_ptr<Device>& device : devices_) {
    const MemoryState state = device->account().state();
    const std::string& name = device->info().name;
    if (state.idle > 0) {
      notes.push_back(absl::StrCat(name, ": ", FormatByteSize(state.idle), " of freed memory are kept for reuse"));
    }
    if (state.huge > 0) notes.push_back(absl::StrCat(name, ": ", FormatByteSize(state.huge), " are in huge pages"));
  }
  return notes;
}

Device* DeviceSet::Find(std::string_view name) const {
  for (const std::unique_ptr<Device>& device : devices_) {
    if (device->info().name == name) return device.get();
  }
  return nullptr;
}

}  // namespace keyload
