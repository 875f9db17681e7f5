#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/device/device.h"
#include "server/device/host_backed_device.h"

namespace keyload {

std::unique_ptr<Device> MakeSimulatedGpu(const SimulatedGpuOptions& options) {
  // The first group, and zeros elsewhere, tell it from a real GPU's.
  const std::string uuid = absl::StrFormat("GPU-51111a7e-0000-0000-0000-%012x", options.index);
  return std::make_unique<HostBackedDevice>(HostBackedDevice::Options{
      .info = {.name = absl::StrCat("cuda:", options.index), .uuid = uuid, .model = "Simulated GPU", .simulated = true},
      .capacity_bytes = options.capacity_bytes,
      .reuse_bytes = 0,
      .reuse_segments = 0,
      .copy_bytes_per_second = options.copy_bytes_per_second,
      .backing = HostBackedDevice::Backing::kAnonymous,
      .huge_pages = HugePages::kNever,
      .room = options.room,
  });
}

}  // namespace keyload
