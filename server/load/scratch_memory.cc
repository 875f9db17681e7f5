#include "server/load/scratch_memory.h"

#include <sys/mman.h>

#include <cstdlib>

#include "server/base/error.h"
#include "server/base/rounding.h"
#include "server/io/shard_reader.h"

namespace keyload {
namespace {

constexpr uint64_t kHugePage = 2ull << 20;

// Not from the heap, which would give what others have used as small pages.
std::byte* MapAligned(uint64_t bytes) {
  void* const mapped =
      ::mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  std::byte* const begin = static_cast<std::byte*>(mapped);
  const uint64_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (before > 0) ::munmap(begin, before);
  ::munmap(begin + before + bytes, kHugePage - before);
  ::madvise(begin + before, bytes, MADV_HUGEPAGE);
  return begin + before;
}

}  // namespace

void FreeMemory::operator()(std::byte* memory) const {
  if (mapped_bytes > 0) {
    ::munmap(memory, mapped_bytes);
  } else {
    std::free(memory);
  }
}

absl::StatusOr<ScratchMemory> AllocateScratch(uint64_t bytes) {
  const uint64_t alignment = bytes < kHugePage ? kSectorBytes : kHugePage;
  const uint64_t rounded = RoundUp(bytes, alignment);
  ScratchMemory memory;
  if (rounded < bytes || rounded + kHugePage < rounded) {
    // more than can be counted
  } else if (alignment == kHugePage) {
    memory = ScratchMemory(MapAligned(rounded), FreeMemory{rounded});
  } else {
    memory = ScratchMemory(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)), FreeMemory{});
  }
  if (memory != nullptr) return memory;
  return MakeError(Reason::kDeviceOutOfMemory, "cpu: no memory for a read buffer", {{"device", "cpu"}});
}

}  // namespace keyload
