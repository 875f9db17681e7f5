#include "tests/support/temporary_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

namespace keyload {

TemporaryFile::TemporaryFile(std::span<const std::byte> content) : path_(testing::TempDir() + "keyload-XXXXXX") {
  const UniqueFd fd(::mkstemp(path_.data()));
  EXPECT_TRUE(fd) << path_;
  EXPECT_EQ(::write(fd.get(), content.data(), content.size()), static_cast<ssize_t>(content.size()));
}

TemporaryFile::~TemporaryFile() { ::unlink(path_.c_str()); }

std::shared_ptr<const UniqueFd> TemporaryFile::OpenToRead() const {
  auto fd = std::make_shared<const UniqueFd>(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_TRUE(*fd) << path_;
  return fd;
}

void TemporaryFile::Truncate(size_t size) { EXPECT_EQ(::truncate(path_.c_str(), static_cast<off_t>(size)), 0); }

std::vector<std::byte> PatternBytes(size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31 + i / 256);
  return bytes;
}

}  // namespace keyload
