#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "server/device/device.h"
#include "server/plan/load_plan.h"

namespace keyload {

// Bytes of one run inside one block, and where they go.
struct BlockPiece {
  const TensorRun* run = nullptr;
  uint64_t file_offset = 0;
  uint64_t length = 0;
  uint64_t target_offset = 0;  // in the segment
  uint64_t target_length = 0;
  DeviceMemory* memory = nullptr;
  std::span<std::byte> target;  // on the host; empty where a device needs a copy
};

// Puts what `bytes`, which begin at `offset` of the file, hold of `pieces` to their place. REQUIRES: the pieces ascend
// in the file, are on the host and are not converted. DEVICE_OUT_OF_MEMORY.
absl::Status WriteToHost(uint64_t offset, std::span<const std::byte> bytes, std::span<const BlockPiece> pieces);

}  // namespace keyload
