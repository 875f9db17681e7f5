#include <gtest/gtest.h>

#include "tests/unit/load/transfer_case.h"

namespace keyload {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TestTensor Tensor(const std::string& name, uint64_t bytes, DType dtype = DType::kU8) {
  return {.name = name, .dtype = dtype, .shape = {bytes * 8 / DTypeBits(dtype)}, .data = PatternBytes(name, bytes)};
}

TEST(Transfer, BringsEveryByteToADeviceThatNeedsCopies) {
  const std::vector<TestTensor> tensors = {Tensor("a", 100), Tensor("large", 9 * kMiB), Tensor("empty", 0),
                                           Tensor("z", 3)};
  TransferCase test(tensors);
  const auto result = test.Run("cuda:0");
  ASSERT_TRUE(result.ok()) << result.status();
  for (const TestTensor& tensor : tensors) EXPECT_EQ(test.Bytes(*result, tensor.name), tensor.data) << tensor.name;
  EXPECT_EQ(test.report.bytes.read, 9 * kMiB + 103);
  EXPECT_EQ(test.report.bytes.mapped, 0);
  EXPECT_EQ(test.report.devices[0].copied_bytes, 9 * kMiB + 103);
  EXPECT_EQ(test.report.shards[0].read_bytes, 9 * kMiB + 103);
  EXPECT_GT(test.report.bytes.peak_scratch, 0);
}

TEST(Transfer, ReadsUnalignedHostTensorsStraightIntoTheirSegments) {
  const std::vector<TestTensor> tensors = {Tensor("odd", 3), Tensor("floats", 8 * kMiB, DType::kF32),
                                           Tensor("more", 40, DType::kF32)};
  TransferCase test(tensors);
  const auto result = test.Run("cpu");
  ASSERT_TRUE(result.ok()) << result.status();
  for (const TestTensor& tensor : tensors) EXPECT_EQ(test.Bytes(*result, tensor.name), tensor.data) << tensor.name;
  EXPECT_EQ(test.report.bytes.read, 8 * kMiB + 40);
  EXPECT_EQ(test.report.bytes.mapped, 3);
  EXPECT_EQ(test.report.bytes.peak_scratch, 0) << "no bounce";
}

TEST(Transfer, MappedTensorsAreNeitherReadNorAllocated) {
  TransferCase test({Tensor("a", 3 * kMiB)});
  const auto result = test.Run("cpu");
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(test.report.bytes.read, 0);
  EXPECT_EQ(test.report.bytes.mapped, 3 * kMiB);
  EXPECT_EQ(test.memory("cpu").used, 0);
}

TEST(Transfer, WaitsForTheLastCopy) {
  TransferCase test({Tensor("a", kMiB)});
  test.gpu().HoldCopies();
  bool progressed = false;
  const auto result = test.Run("cuda:0", {}, [&](const LoadProgress& progress) {
    EXPECT_EQ(progress.bytes_done, 0) << "a byte counts when the device has it";
    EXPECT_EQ(progress.bytes_total, kMiB);
    progressed = true;
    test.gpu().ReleaseCopies();
  });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(progressed);
  EXPECT_EQ(test.Bytes(*result, "a"), PatternBytes("a", kMiB));
}

TEST(Transfer, ScratchBelowOneSlabStillWorks) {
  TransferCase test({Tensor("a", 9 * kMiB)}, {.scratch_bytes = 1});
  const auto result = test.Run("cuda:0");
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(test.Bytes(*result, "a"), PatternBytes("a", 9 * kMiB));
}

TEST(Transfer, AnEqualSecondCopyOfATiedTensorGivesItsMemoryBack) {
  TestTensor head = Tensor("head", 1000);
  head.data = PatternBytes("embed", 1000);
  TransferCase test({Tensor("embed", 1000), head});
  test.tied = {{"embed", "head"}};
  const auto result = test.Run("cuda:0");
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->equal_duplicates.size(), 1);
  EXPECT_TRUE(result->conflicts.empty());
  EXPECT_EQ(test.memory("cuda:0").used, 1024);
}

TEST(Transfer, DifferingTiedCopiesAreBothKept) {
  TransferCase test({Tensor("embed", 3 * kMiB), Tensor("head", 3 * kMiB)});
  test.tied = {{"embed", "head"}};
  const auto result = test.Run("cuda:0");
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->conflicts.size(), 1);
  EXPECT_EQ(test.Bytes(*result, "head"), PatternBytes("head", 3 * kMiB));
}

TEST(Transfer, ComparingMappedTiedCopiesIsCountedAsReading) {
  TransferCase test({Tensor("embed", 1000), Tensor("head", 1000)});
  test.tied = {{"embed", "head"}};
  ASSERT_TRUE(test.Run("cpu").ok());
  EXPECT_EQ(test.report.bytes.read, 2000);
}

TEST(Transfer, AnEmptyPlanIsDoneAtOnce) {
  TransferCase test({});
  EXPECT_TRUE(test.Run("cuda:0").ok());
}

}  // namespace
}  // namespace keyload
