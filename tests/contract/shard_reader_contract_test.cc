#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <ostream>
#include <vector>

#include "server/base/error.h"
#include "server/io/shard_reader.h"
#include "tests/support/faulty_reader.h"
#include "tests/support/temporary_file.h"

namespace keyload {
namespace {

constexpr size_t kFileSize = 3'000'001;

struct ReaderCase {
  std::string name;
  std::function<std::unique_ptr<ShardReader>(const TemporaryFile&)> make;
};
void PrintTo(const ReaderCase& tested, std::ostream* out) { *out << tested.name; }

// What every ShardReader promises.
class ShardReaderContractTest : public testing::TestWithParam<ReaderCase> {
 protected:
  absl::Status Read(uint64_t offset, std::span<std::byte> destination) {
    const iovec buffer = {destination.data(), destination.size()};
    return reader_->ReadVector(offset, {&buffer, 1}, counts_);
  }

  const std::vector<std::byte> content_ = PatternBytes(kFileSize);
  TemporaryFile file_{content_};
  std::unique_ptr<ShardReader> reader_ = GetParam().make(file_);
  ReadCounts counts_;
};

TEST_P(ShardReaderContractTest, ReadsARangeAndCountsIt) {
  std::vector<std::byte> bytes(1'000'003);
  ASSERT_TRUE(Read(17, bytes).ok());
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), content_.begin() + 17));
  EXPECT_EQ(counts_.read, bytes.size());
  EXPECT_LE(counts_.cached, counts_.read);
}

TEST_P(ShardReaderContractTest, FillsManyBuffersInOrderAndSkipsEmptyOnes) {
  std::vector<std::byte> first(10), second(5'000), third(1);
  const std::vector<iovec> buffers = {{nullptr, 0},
                                      {first.data(), first.size()},
                                      {nullptr, 0},
                                      {second.data(), second.size()},
                                      {third.data(), third.size()}};
  ASSERT_TRUE(reader_->ReadVector(100, buffers, counts_).ok());
  EXPECT_TRUE(std::equal(first.begin(), first.end(), content_.begin() + 100));
  EXPECT_TRUE(std::equal(second.begin(), second.end(), content_.begin() + 110));
  EXPECT_EQ(third[0], content_[5'110]);
}

TEST_P(ShardReaderContractTest, ReadingPastTheEndSaysHowMuchIsMissing) {
  std::vector<std::byte> bytes(100);
  const absl::Status status = Read(kFileSize - 60, bytes);
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointTruncated) << status;
  EXPECT_EQ(ErrorDetails(status)["missing_bytes"], "40");
  EXPECT_EQ(ErrorDetails(status)["offset"], std::to_string(kFileSize));
  EXPECT_EQ(counts_.read, 60u);
}

TEST_P(ShardReaderContractTest, OffsetsBeyondAnyFileAreTruncationToo) {
  std::vector<std::byte> bytes(100);
  for (const uint64_t offset : {uint64_t{1} << 62, std::numeric_limits<uint64_t>::max() - 50}) {
    EXPECT_EQ(ErrorReason(Read(offset, bytes)), Reason::kCheckpointTruncated) << offset;
    EXPECT_EQ(ErrorReason(reader_->Populate(offset, 100, counts_)), Reason::kCheckpointTruncated) << offset;
  }
}

TEST_P(ShardReaderContractTest, NothingIsReadForNothing) {
  EXPECT_TRUE(reader_->ReadVector(kFileSize, {}, counts_).ok());
  EXPECT_TRUE(reader_->Populate(kFileSize, 0, counts_).ok());
  EXPECT_EQ(counts_.read, 0u);
}

TEST_P(ShardReaderContractTest, WhatIsCachedIsReadAtOnce) {
  std::vector<std::byte> bytes(kFileSize - 17);
  const iovec buffer = {bytes.data(), bytes.size()};
  const absl::StatusOr<bool> cached = reader_->ReadCached(17, {&buffer, 1}, counts_);  // just written
  ASSERT_TRUE(cached.ok()) << cached.status();
  if (!*cached) {
    EXPECT_EQ(counts_.read, 0u);
    GTEST_SKIP() << "the file system does not tell";
  }
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), content_.begin() + 17));
  EXPECT_EQ(counts_.read, bytes.size());
}

TEST_P(ShardReaderContractTest, ACachedReadPastTheEndIsTruncation) {
  std::vector<std::byte> bytes(100);
  const iovec buffer = {bytes.data(), bytes.size()};
  const absl::StatusOr<bool> cached = reader_->ReadCached(kFileSize - 60, {&buffer, 1}, counts_);
  if (cached.ok() && !*cached) GTEST_SKIP() << "the file system does not tell";
  EXPECT_EQ(ErrorReason(cached.status()), Reason::kCheckpointTruncated) << cached.status();
}

TEST_P(ShardReaderContractTest, DirectReadsGiveTheBytesUpToTheEndInsideASector) {
  constexpr uint64_t kBegin = 2'990'080;  // a multiple of kSectorBytes
  static_assert(kBegin % kSectorBytes == 0 && kFileSize % kSectorBytes != 0);
  alignas(kSectorBytes) static std::byte first[kSectorBytes];
  alignas(kSectorBytes) static std::byte second[4 * kSectorBytes];
  const iovec buffers[] = {{first, sizeof(first)}, {second, sizeof(second)}};
  if (!reader_->ReadDirect(kBegin, buffers, kFileSize - kBegin, counts_)) GTEST_SKIP() << "no direct reads here";
  EXPECT_TRUE(std::equal(first, first + sizeof(first), content_.begin() + kBegin));
  EXPECT_TRUE(std::equal(content_.begin() + kBegin + sizeof(first), content_.end(), second));
  EXPECT_EQ(counts_.read, kFileSize - kBegin);
}

TEST_P(ShardReaderContractTest, ADirectReadThatNeedsMoreThanTheFileFails) {
  alignas(kSectorBytes) static std::byte bytes[4 * kSectorBytes];
  const iovec buffer = {bytes, sizeof(bytes)};
  EXPECT_FALSE(reader_->ReadDirect(2'990'080, {&buffer, 1}, kFileSize - 2'990'080 + 1, counts_));
  EXPECT_FALSE(reader_->ReadDirect(uint64_t{1} << 62, {&buffer, 1}, 1, counts_));
  EXPECT_FALSE(reader_->ReadDirect(std::numeric_limits<uint64_t>::max() - kSectorBytes + 1, {&buffer, 1}, 1, counts_));
}

TEST_P(ShardReaderContractTest, AnyRangeMayBeAskedFor) {
  reader_->WillNeed(0, kFileSize);
  reader_->WillNeed(17, 0);
  reader_->WillNeed(std::numeric_limits<uint64_t>::max() - 1, 100);
}

TEST_P(ShardReaderContractTest, PopulateTakesAnyRangeOfTheFile) {
  EXPECT_TRUE(reader_->Populate(0, kFileSize, counts_).ok());
  EXPECT_TRUE(reader_->Populate(4'097, 1, counts_).ok());
  EXPECT_TRUE(reader_->Populate(kFileSize - 1, 1, counts_).ok());
}

TEST_P(ShardReaderContractTest, PopulateOfAFileThatShrankIsTruncation) {
  file_.Truncate(1'000'000);
  const absl::Status status = reader_->Populate(0, kFileSize, counts_);
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointTruncated) << status;
}

TEST_P(ShardReaderContractTest, PopulateSeesAnEndInsideTheLastPage) {
  file_.Truncate(kFileSize - 1);
  const absl::Status status = reader_->Populate(0, kFileSize, counts_);
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointTruncated) << status;
  EXPECT_EQ(ErrorDetails(status)["missing_bytes"], "1");
}

INSTANTIATE_TEST_SUITE_P(Readers, ShardReaderContractTest,
                         testing::Values(ReaderCase{"File",
                                                    [](const TemporaryFile& file) {
                                                      return MakeFileReader(file.OpenToRead(), file.path());
                                                    }},
                                         ReaderCase{"FaultyWithoutFaults",
                                                    [](const TemporaryFile& file) -> std::unique_ptr<ShardReader> {
                                                      return std::make_unique<FaultyReader>(
                                                          MakeFileReader(file.OpenToRead(), file.path()),
                                                          FaultyReader::Faults{});
                                                    }}),
                         [](const testing::TestParamInfo<ReaderCase>& tested) { return tested.param.name; });

}  // namespace
}  // namespace keyload
