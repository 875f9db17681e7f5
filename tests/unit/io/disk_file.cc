#include "tests/unit/io/disk_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace keyload {

DiskFile::DiskFile(uint64_t bytes) : bytes_(bytes), file_(PatternBytes(bytes)), fd_(file_.OpenToRead()) {
  EXPECT_EQ(::fsync(fd()), 0);
}

uint64_t DiskFile::resident(ByteRange range) const {
  const std::optional<uint64_t> bytes = ResidentBytes(fd(), {&range, 1});
  EXPECT_TRUE(bytes.has_value());
  return bytes.value_or(0);
}

bool DiskFile::DropAll() const {
  const ByteRange range = all();
  EXPECT_TRUE(DropFromPageCache(fd(), path(), {&range, 1}).ok());
  return resident(range) == 0;
}

}  // namespace keyload
