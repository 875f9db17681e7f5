#include "server/load/scratch_memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "server/base/error.h"
#include "server/io/shard_reader.h"

namespace keyload {
namespace {

TEST(ScratchMemory, BeginsAtASectorAndCanBeWritten) {
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{100'000}, uint64_t{4} << 20, (uint64_t{4} << 20) + 1}) {
    const absl::StatusOr<ScratchMemory> memory = AllocateScratch(bytes);
    ASSERT_TRUE(memory.ok()) << memory.status();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->get()) % kSectorBytes, 0u);
    std::memset(memory->get(), 1, bytes);
  }
}

TEST(ScratchMemory, MoreThanThereIsIsRefused) {
  for (const uint64_t bytes : {uint64_t{1} << 60, std::numeric_limits<uint64_t>::max()}) {
    EXPECT_EQ(ErrorReason(AllocateScratch(bytes).status()), Reason::kDeviceOutOfMemory);
  }
}

}  // namespace
}  // namespace keyload
