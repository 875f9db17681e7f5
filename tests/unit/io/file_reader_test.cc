#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <vector>

#include "server/base/error.h"
#include "server/io/shard_reader.h"
#include "tests/support/temporary_file.h"

namespace keyload {
namespace {

TEST(FileReaderTest, BytesInThePageCacheAreCountedAsCached) {
  const TemporaryFile file(PatternBytes(100'000));  // just written, so cached
  std::vector<std::byte> bytes(100'000);
  const iovec buffer = {bytes.data(), bytes.size()};
  ReadCounts counts;
  ASSERT_TRUE(MakeFileReader(file.OpenToRead(), file.path())->ReadVector(0, {&buffer, 1}, counts).ok());
  EXPECT_EQ(counts.read, 100'000u);
  EXPECT_EQ(counts.cached, 100'000u);
}

TEST(FileReaderTest, WhatIsColdIsLeftToOthers) {
  const TemporaryFile file(PatternBytes(8 << 20));
  const auto fd = file.OpenToRead();
  ASSERT_EQ(::fsync(fd->get()), 0);
  ASSERT_EQ(::posix_fadvise(fd->get(), 4 << 20, 4 << 20, POSIX_FADV_DONTNEED), 0);
  const auto reader = MakeFileReader(fd, file.path());
  std::vector<std::byte> bytes(4 << 20);
  const iovec buffer = {bytes.data(), bytes.size()};
  if (::preadv2(fd->get(), &buffer, 1, 7 << 20, RWF_NOWAIT) >= 0) GTEST_SKIP() << "the file system is memory";
  ReadCounts counts;
  const absl::StatusOr<bool> cached = reader->ReadCached(4 << 20, {&buffer, 1}, counts);
  ASSERT_TRUE(cached.ok()) << cached.status();
  EXPECT_FALSE(*cached);
  EXPECT_EQ(counts.read, 0u);
  // Were the rest on its way into the page cache, it would be there at the latest after the page that was asked for.
  const iovec first = {bytes.data(), 1};
  ASSERT_TRUE(reader->ReadVector(4 << 20, {&first, 1}, counts).ok());
  const iovec last = {bytes.data(), 1};
  const absl::StatusOr<bool> rest = reader->ReadCached(6 << 20, {&last, 1}, counts);
  ASSERT_TRUE(rest.ok());
  EXPECT_FALSE(*rest);
}

TEST(FileReaderTest, MoreBuffersThanOneCallTakesAreAllFilled) {
  const std::vector<std::byte> content = PatternBytes(5'000);
  const TemporaryFile file(content);
  std::vector<std::byte> bytes(5'000);
  std::vector<iovec> buffers;
  for (std::byte& byte : bytes) buffers.push_back({&byte, 1});
  ReadCounts counts;
  ASSERT_TRUE(MakeFileReader(file.OpenToRead(), file.path())->ReadVector(0, buffers, counts).ok());
  EXPECT_EQ(bytes, content);
}

TEST(FileReaderTest, AFailedReadNamesFileAndOffset) {
  const auto folder = std::make_shared<const UniqueFd>(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  std::byte byte;
  const iovec buffer = {&byte, 1};
  ReadCounts counts;
  const absl::Status status = MakeFileReader(folder, "model.safetensors")->ReadVector(7, {&buffer, 1}, counts);
  EXPECT_EQ(ErrorReason(status), Reason::kIoError);
  EXPECT_NE(status.message().find("model.safetensors"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("offset 7"), absl::string_view::npos) << status;
}

TEST(FileReaderTest, PopulateReadsWhereTheFileCannotBeMapped) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd write_end(ends[1]);
  ReadCounts counts;
  // A pipe can be neither mapped nor read at an offset: the error is that of the read.
  const absl::Status status =
      MakeFileReader(std::make_shared<const UniqueFd>(ends[0]), "pipe")->Populate(0, 100, counts);
  EXPECT_EQ(ErrorReason(status), Reason::kIoError);
  EXPECT_NE(status.message().find("read of"), absl::string_view::npos) << status;
}

}  // namespace
}  // namespace keyload
