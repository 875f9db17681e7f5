#include "server/device/device.h"
#include "server/device/host_backed_device.h"

namespace keyload {

std::unique_ptr<Device> MakeHostDevice(const HostDeviceOptions& options) {
  return std::make_unique<HostBackedDevice>(HostBackedDevice::Options{
      .info = {.name = "cpu", .uuid = "", .model = "Host memory", .simulated = false},
      .capacity_bytes = options.capacity_bytes,
      .reuse_bytes = options.reuse_bytes,
      .reuse_segments = options.reuse_segments,
      .copy_bytes_per_second = 0,
      .backing = HostBackedDevice::Backing::kMemfd,
      .huge_pages = options.huge_pages,
      .room = options.room,
  });
}

}  // namespace keyload
