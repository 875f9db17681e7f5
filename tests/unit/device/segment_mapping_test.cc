#include "server/device/segment_mapping.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <string>

namespace keyload {
namespace {

uint64_t FreeHugePages() {
  std::ifstream file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  uint64_t count = 0;
  file >> count;
  return count;
}

TEST(SegmentMappingTest, MemfdTakesNoHugePages) {
  const auto mapping = SegmentMapping::Memfd(4u << 20);
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  EXPECT_FALSE(mapping->huge());
}

TEST(SegmentMappingTest, HugeMemfdHasItsPagesOrSaysWhyNot) {
  const bool given = FreeHugePages() >= 2;
  const auto mapping = SegmentMapping::HugeMemfd(4u << 20);
  ASSERT_EQ(mapping.ok(), given) << mapping.status();
  if (given) {
    EXPECT_TRUE(mapping->huge());
    EXPECT_EQ(mapping->missing_bytes(), 0u);
  } else {
    EXPECT_THAT(mapping.status().message(), testing::HasSubstr("vm.nr_hugepages"));
  }
}

TEST(SegmentMappingTest, HugeMemfdThatWouldWasteMemoryIsRefused) {
  EXPECT_FALSE(SegmentMapping::HugeMemfd(3u << 19, 1u << 18).ok());  // 1.5 MiB
}

TEST(SegmentMappingTest, PopulateMakesTheMissingPagesAndKeepsTheOthers) {
  auto mapping = SegmentMapping::Memfd(1u << 20);
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  EXPECT_EQ(mapping->missing_bytes(), 1u << 20);
  const std::string text = "text";
  ASSERT_TRUE(mapping->Write(5'000, std::as_bytes(std::span(text))).ok());
  EXPECT_EQ(mapping->missing_bytes(), (1u << 20) - 4096);
  ASSERT_TRUE(mapping->Populate().ok());
  EXPECT_EQ(mapping->missing_bytes(), 0u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(mapping->address()) + 5'000, 5), std::string("text\0", 5));
}

TEST(SegmentMappingTest, ResizingKeepsWhatFitsAndAddsZeros) {
  auto mapping = SegmentMapping::Memfd(20'000);
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  std::memset(mapping->address(), 0x11, mapping->bytes());
  ASSERT_TRUE(mapping->Resize(8'192));
  EXPECT_EQ(mapping->bytes(), 8'192u);
  ASSERT_TRUE(mapping->Resize(1'000'000));
  EXPECT_GE(mapping->bytes(), 1'000'000u);
  const std::string text(reinterpret_cast<const char*>(mapping->address()), 1'000'000);
  EXPECT_TRUE(text == std::string(8'192, '\x11') + std::string(1'000'000 - 8'192, '\0'));
}

TEST(SegmentMappingTest, HugePagesCanBeCutButDoNotGrow) {
  auto mapping = SegmentMapping::HugeMemfd(8u << 20);
  if (!mapping.ok()) GTEST_SKIP() << "the system has no free huge pages";
  ASSERT_TRUE(mapping->Resize(5u << 20));
  EXPECT_EQ(mapping->bytes(), 6u << 20);
  EXPECT_FALSE(mapping->Resize(7u << 20));
  std::memset(mapping->address(), 0x11, mapping->bytes());
}

}  // namespace
}  // namespace keyload
