#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace keyload {

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};
// Memory that direct reads may write: it begins at a multiple of kSectorBytes.
using ScratchMemory = std::unique_ptr<std::byte[], FreeMemory>;

// Uninitialised; of huge pages where the system gives them, which disks fill faster. Null when there is no memory.
ScratchMemory AllocateScratch(uint64_t bytes);

}  // namespace keyload
