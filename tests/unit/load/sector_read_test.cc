#include "server/load/sector_read.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

#include "server/io/shard_reader.h"
#include "server/load/scratch_memory.h"

namespace keyload {
namespace {

constexpr uint64_t kFileSize = 3'000'001;

std::string FileBytes() {
  std::mt19937 random(7);
  std::string bytes(kFileSize, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// Reads as a disk would: whole sectors, up to the end of the file.
void ReadSectors(const std::string& file, SectorRead& read, std::byte* scratch) {
  uint64_t offset = read.offset();
  EXPECT_EQ(offset % kSectorBytes, 0);
  uint64_t length = 0;
  for (const iovec& buffer : read.Buffers(scratch)) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.iov_base) % kSectorBytes, 0);
    EXPECT_EQ(buffer.iov_len % kSectorBytes, 0);
    const uint64_t left = offset < file.size() ? std::min<uint64_t>(buffer.iov_len, file.size() - offset) : 0;
    std::memcpy(buffer.iov_base, file.data() + offset, left);
    offset += buffer.iov_len;
    length += buffer.iov_len;
  }
  EXPECT_EQ(length, read.length());
  read.CopyOut(scratch);
}

TEST(SectorRead, ReadsALongPartInPlaceButForItsEnds) {
  const std::string file = FileBytes();
  const ScratchMemory memory = AllocateScratch(1 << 20);
  const SectorPart part = {.file_offset = 5000, .target = {memory.get() + 5000 % kSectorBytes, 500'000}};
  SectorRead read;
  read.Prepare(5000, 500'000, {&part, 1});
  EXPECT_EQ(read.scratch_bytes(), 2 * kSectorBytes);
  const ScratchMemory scratch = AllocateScratch(read.scratch_bytes());
  ReadSectors(file, read, scratch.get());
  EXPECT_EQ(std::memcmp(part.target.data(), file.data() + 5000, 500'000), 0);
}

TEST(SectorRead, APartWhoseTargetDoesNotFitIsCopied) {
  const ScratchMemory memory = AllocateScratch(1 << 20);
  const SectorPart part = {.file_offset = 0, .target = {memory.get() + 256, 500'000}};
  SectorRead read;
  read.Prepare(0, 500'000, {&part, 1});
  EXPECT_EQ(read.scratch_bytes(), SectorEnd(500'000));
}

TEST(SectorRead, WritesNothingButWantedBytes) {
  const std::string file = FileBytes();
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  SectorRead read;
  constexpr uint64_t kTarget = 4'000'000;
  const ScratchMemory target = AllocateScratch(kTarget);
  for (int round = 0; round < 100; ++round) {
    std::memset(target.get(), 0x5a, kTarget);
    std::string expected(kTarget, 0x5a);
    std::vector<SectorPart> parts;
    uint64_t offset = random() % 2 == 0 ? random() % 100'000 : kFileSize - random() % 400'000 - 1;
    const uint64_t begin = offset;
    uint64_t at = 0;
    uint64_t end = offset;
    for (unsigned i = random() % 6; i > 0 && offset < kFileSize; --i) {
      const uint64_t length = std::min<uint64_t>(1 + random() % 300'000, kFileSize - offset);
      at += random() % 3 == 0 ? random() % 5000 : (offset - at) % kSectorBytes;
      parts.push_back({.file_offset = offset, .target = {target.get() + at, length}});
      std::memcpy(expected.data() + at, file.data() + offset, length);
      at += length;
      end = offset + length;
      offset = end + (random() % 2 == 0 ? 0 : random() % 9000);
    }
    read.Prepare(begin, end - begin, parts);
    const ScratchMemory scratch = AllocateScratch(std::max(read.scratch_bytes(), kSectorBytes));
    ReadSectors(file, read, scratch.get());
    ASSERT_EQ(std::memcmp(target.get(), expected.data(), kTarget), 0) << round;
  }
}

}  // namespace
}  // namespace keyload
