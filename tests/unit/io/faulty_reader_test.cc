#include "tests/support/faulty_reader.h"

#include <gtest/gtest.h>

#include <future>
#include <vector>

#include "server/base/error.h"
#include "tests/support/temporary_file.h"

namespace keyload {
namespace {

std::unique_ptr<FaultyReader> MakeFaulty(const TemporaryFile& file, FaultyReader::Faults faults) {
  return std::make_unique<FaultyReader>(MakeFileReader(file.OpenToRead(), file.path()), std::move(faults));
}

TEST(FaultyReaderTest, BytesBeforeAFaultAreDelivered) {
  const std::vector<std::byte> content = PatternBytes(100);
  const TemporaryFile file(content);
  for (const bool io_error : {false, true}) {
    FaultyReader::Faults faults;
    (io_error ? faults.io_error_at : faults.end_of_file_at) = 40;
    std::vector<std::byte> bytes(100);
    const iovec buffer = {bytes.data(), bytes.size()};
    ReadCounts counts;
    const absl::Status status = MakeFaulty(file, faults)->ReadVector(0, {&buffer, 1}, counts);
    EXPECT_EQ(ErrorReason(status), io_error ? Reason::kIoError : Reason::kCheckpointTruncated);
    EXPECT_EQ(counts.read, 40u);
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.begin() + 40, content.begin()));
    EXPECT_EQ(bytes[40], std::byte{0});
  }
}

TEST(FaultyReaderTest, ReadsThatMissTheFaultSucceed) {
  const TemporaryFile file(PatternBytes(100));
  const auto reader = MakeFaulty(file, {.end_of_file_at = 90, .io_error_at = 40, .file = "shard"});
  std::vector<std::byte> bytes(40);
  const iovec buffer = {bytes.data(), bytes.size()};
  ReadCounts counts;
  EXPECT_TRUE(reader->ReadVector(0, {&buffer, 1}, counts).ok());
  EXPECT_TRUE(reader->ReadVector(41, {&buffer, 1}, counts).ok());
}

TEST(FaultyReaderTest, HeldCallsWaitForTheRelease) {
  const TemporaryFile file(PatternBytes(100));
  const auto reader = MakeFaulty(file, {});
  reader->Hold();
  ReadCounts counts;
  std::future<absl::Status> call = std::async(std::launch::async, [&] { return reader->Populate(0, 100, counts); });
  reader->WaitForCalls(1);
  reader->Release();
  EXPECT_TRUE(call.get().ok());
  EXPECT_EQ(reader->calls(), 1u);
}

}  // namespace
}  // namespace keyload
