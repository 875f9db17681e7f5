#include "server/device/device.h"

#include <algorithm>

namespace keyload {

absl::Status DeviceMemory::Write(uint64_t offset, std::span<const std::byte> bytes) {
  std::copy(bytes.begin(), bytes.end(), host().begin() + static_cast<std::ptrdiff_t>(offset));
  return absl::OkStatus();
}

}  // namespace keyload
