#include "server/io/page_cache.h"

#include <gtest/gtest.h>

#include <stop_token>

#include "server/base/error.h"
#include "tests/unit/io/disk_file.h"

namespace keyload {
namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr uint64_t kPage = 4096;
constexpr char kNotOnDisk[] = "the temporary directory is not on a disk";

TEST(PageCacheWarmerTest, ReadsARangeAndAlmostNothingElse) {
  const DiskFile file(64 * kMiB);
  if (!file.DropAll()) GTEST_SKIP() << kNotOnDisk;
  PageCacheWarmer warmer(file.fd(), file.path());
  ReadCounts counts;
  uint64_t wanted = 0;
  for (uint64_t offset = 1'000'001; offset < 60 * kMiB; offset += 10 * kMiB) {
    const ByteRange range = {offset, 217'000};
    ASSERT_TRUE(warmer.Warm(range, {}, counts).ok());
    EXPECT_EQ(file.resident(range), range.length);
    wanted += range.length;
  }
  EXPECT_EQ(counts.read, wanted);
  EXPECT_EQ(counts.cached, 0u);
  EXPECT_LE(file.resident(file.all()), wanted * 105 / 100);
}

TEST(PageCacheWarmerTest, CountsWhatWasThereBefore) {
  const DiskFile file(8 * kMiB);
  if (!file.DropAll()) GTEST_SKIP() << kNotOnDisk;
  PageCacheWarmer warmer(file.fd(), file.path());
  ReadCounts counts;
  ASSERT_TRUE(warmer.Warm({0, 3 * kMiB}, {}, counts).ok());
  EXPECT_EQ(counts.cached, 0u);
  counts = {};
  ASSERT_TRUE(warmer.Warm(file.all(), {}, counts).ok());
  EXPECT_EQ(counts.read, 8 * kMiB);
  EXPECT_EQ(counts.cached, 3 * kMiB);
  EXPECT_EQ(file.resident(file.all()), 8 * kMiB);
}

TEST(PageCacheWarmerTest, StopsWhenItIsCancelled) {
  const DiskFile file(kMiB);
  PageCacheWarmer warmer(file.fd(), file.path());
  std::stop_source source;
  source.request_stop();
  ReadCounts counts;
  const absl::Status status = warmer.Warm(file.all(), {.stop = source.get_token()}, counts);
  EXPECT_EQ(ErrorReason(status), Reason::kLoadCancelled);
  EXPECT_EQ(counts.read, 0u);
}

TEST(PageCacheWarmerTest, AFileThatShrinksIsTruncated) {
  DiskFile file(4 * kMiB);
  PageCacheWarmer warmer(file.fd(), file.path());
  ReadCounts counts;
  ASSERT_TRUE(warmer.Warm({0, 2 * kMiB}, {}, counts).ok());
  file.Truncate(3 * kMiB + 5);
  const absl::Status status = warmer.Warm({2 * kMiB, 2 * kMiB}, {}, counts);
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointTruncated);
  EXPECT_EQ(ErrorDetails(status)["offset"], std::to_string(3 * kMiB + 5));
  EXPECT_EQ(ErrorReason(warmer.Warm({~uint64_t{0}, 2}, {}, counts)), Reason::kCheckpointTruncated);
}

TEST(ResidentBytesTest, BothWaysCountWhatWasDropped) {
  const DiskFile file(4 * kMiB);
  if (!file.DropAll()) GTEST_SKIP() << kNotOnDisk;
  PageCacheWarmer warmer(file.fd(), file.path());
  ReadCounts counts;
  ASSERT_TRUE(warmer.Warm({kMiB, kMiB}, {}, counts).ok());
  const std::vector<ByteRange> ranges = {{0, 100}, {kMiB + 17, 1'000}, {2 * kMiB - 500, 5'000}};
  EXPECT_EQ(ResidentBytesByMincore(file.fd(), ranges), 1'500u);
  EXPECT_EQ(ResidentBytesByMincore(file.fd(), {}), 0u);
  EXPECT_EQ(file.resident({0, kMiB}), 0u);
  EXPECT_EQ(file.resident({kMiB / 2, 3 * kMiB}), kMiB);
}

TEST(ResidentBytesTest, WhatAFileHasNoMoreIsNotResident) {
  DiskFile file(4 * kMiB);
  file.Truncate(kPage);
  const ByteRange range = file.all();
  EXPECT_EQ(ResidentBytesByMincore(file.fd(), {&range, 1}), kPage);
  EXPECT_EQ(ResidentBytes(file.fd(), {&range, 1}), kPage);
}

TEST(ResidentBytesTest, NothingIsSaidOfWhatIsNoFile) {
  const ByteRange range = {0, 1};
  EXPECT_FALSE(ResidentBytes(-1, {&range, 1}).has_value());
}

TEST(DropFromPageCacheTest, DropsWholePagesInsideTheRangeOnly) {
  const DiskFile file(kMiB);
  if (!file.DropAll()) GTEST_SKIP() << kNotOnDisk;
  PageCacheWarmer warmer(file.fd(), file.path());
  ReadCounts counts;
  ASSERT_TRUE(warmer.Warm(file.all(), {}, counts).ok());
  const std::vector<ByteRange> ranges = {{0, 0}, {10 * kPage + 1, 3 * kPage}};
  ASSERT_TRUE(DropFromPageCache(file.fd(), file.path(), ranges).ok());
  EXPECT_EQ(file.resident(file.all()), kMiB - 2 * kPage);
  EXPECT_EQ(file.resident({11 * kPage, 2 * kPage}), 0u);
}

TEST(DropFromPageCacheTest, ABadDescriptorIsAnError) {
  const ByteRange range = {0, 1};
  EXPECT_EQ(ErrorReason(DropFromPageCache(-1, "gone", {&range, 1})), Reason::kIoError);
}

}  // namespace
}  // namespace keyload
