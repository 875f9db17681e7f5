#include <utility>

#include "server/device/device.h"

namespace keyload {

DeviceSet::DeviceSet(std::vector<std::unique_ptr<Device>> devices, std::vector<std::string> notes)
    : devices_(std::move(devices)), notes_(std::move(notes)) {}

Device* DeviceSet::Find(std::string_view name) const {
  for (const std::unique_ptr<Device>& device : devices_) {
    if (device->info().name == name) return device.get();
  }
  return nullptr;
}

}  // namespace keyload
