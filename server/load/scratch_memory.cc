#include "server/load/scratch_memory.h"

#include <sys/mman.h>

#include "server/io/shard_reader.h"

namespace keyload {
namespace {

constexpr uint64_t kHugePage = 2ull << 20;

}  // namespace

ScratchMemory AllocateScratch(uint64_t bytes) {
  const uint64_t alignment = bytes < kHugePage ? kSectorBytes : kHugePage;
  const uint64_t rounded = (bytes + alignment - 1) / alignment * alignment;
  if (rounded < bytes) return nullptr;
  ScratchMemory memory(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)));
  if (memory != nullptr && alignment == kHugePage) ::madvise(memory.get(), rounded, MADV_HUGEPAGE);
  return memory;
}

}  // namespace keyload
