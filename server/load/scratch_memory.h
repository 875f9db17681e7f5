#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace keyload {

struct FreeMemory {
  uint64_t mapped_bytes = 0;  // 0: from the heap
  void operator()(std::byte* memory) const;
};
// Memory that direct reads may write: it begins at a multiple of kSectorBytes.
using ScratchMemory = std::unique_ptr<std::byte[], FreeMemory>;

// Uninitialised; of huge pages where the system gives them, which disks fill faster. DEVICE_OUT_OF_MEMORY.
absl::StatusOr<ScratchMemory> AllocateScratch(uint64_t bytes);

}  // namespace keyload
