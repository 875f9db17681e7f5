#include <gtest/gtest.h>

#include "server/base/error.h"
#include "tests/unit/load/transfer_case.h"

namespace keyload {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TestTensor Tensor(const std::string& name, uint64_t bytes, DType dtype = DType::kU8) {
  return {.name = name, .dtype = dtype, .shape = {bytes * 8 / DTypeBits(dtype)}, .data = PatternBytes(name, bytes)};
}

// The last ends where the file does, inside a sector.
std::vector<TestTensor> Tensors() {
  return {Tensor("a.0.w", 3 * kMiB + 4, DType::kF32), Tensor("a.1.w", 5 * kMiB), Tensor("b", 77),
          Tensor("c.w", 2 * kMiB + 1)};
}

void ExpectAll(const TransferCase& test, const absl::StatusOr<TransferResult>& result) {
  ASSERT_TRUE(result.ok()) << result.status();
  for (const TestTensor& tensor : Tensors()) {
    EXPECT_TRUE(test.Bytes(*result, tensor.name) == tensor.data) << tensor.name;
  }
}

class TransferDirect : public testing::TestWithParam<std::string> {};

TEST_P(TransferDirect, ColdBlocksAreReadPastThePageCache) {
  TransferCase test(Tensors(), {.faults = FaultyReader::Faults{.cold_from = 0}, .copy = true});
  const absl::StatusOr<TransferResult> result = test.Run(GetParam());  // holds the reader
  ExpectAll(test, result);
  if (test.reader().direct_reads() == 0) GTEST_SKIP() << "the file system of the temporary directory refuses O_DIRECT";
  EXPECT_NE(test.report.shards[0].engine.find("direct"), std::string::npos) << test.report.shards[0].engine;
  EXPECT_GE(test.report.bytes.read, test.plan().selected_bytes);
  EXPECT_LE((test.report.bytes.read - test.plan().selected_bytes) * kOverReadShare, test.plan().selected_bytes);
}

TEST_P(TransferDirect, ABlockThatIsCachedInPartIsReadOnFromThere) {
  for (const bool refuse : {false, true}) {
    TransferCase test(Tensors(),
                      {.faults = FaultyReader::Faults{.cold_from = 5 * kMiB, .refuse_direct = refuse}, .copy = true});
    ExpectAll(test, test.Run(GetParam()));
  }
}

TEST_P(TransferDirect, ARefusedDirectReadIsDoneThroughThePageCache) {
  TransferCase test(Tensors(), {.faults = FaultyReader::Faults{.cold_from = 0, .refuse_direct = true}, .copy = true});
  ExpectAll(test, test.Run(GetParam()));
  EXPECT_EQ(test.report.shards[0].engine, "buffered");
}

TEST_P(TransferDirect, AnErrorOfADirectReadIsThatOfTheReadAfterIt) {
  TransferCase test(Tensors(), {.faults = FaultyReader::Faults{.io_error_at = 7 * kMiB, .cold_from = 0}, .copy = true});
  EXPECT_EQ(ErrorReason(test.Run(GetParam()).status()), Reason::kIoError);
  EXPECT_EQ(test.memory(GetParam()).used, 0);
}

TEST_P(TransferDirect, AnEarlyEndOfFileIsATruncatedCheckpoint) {
  TransferCase test(Tensors(),
                    {.faults = FaultyReader::Faults{.end_of_file_at = 9 * kMiB + 1, .cold_from = 0}, .copy = true});
  EXPECT_EQ(ErrorReason(test.Run(GetParam()).status()), Reason::kCheckpointTruncated);
  EXPECT_EQ(test.memory(GetParam()).used, 0);
}

INSTANTIATE_TEST_SUITE_P(Devices, TransferDirect, testing::Values("cpu", "cuda:0"), [](const auto& tested) {
  return tested.param == "cpu" ? std::string("Host") : std::string("Copies");
});

TEST(TransferPadding, NothingOfAnotherModelStaysInASegment) {
  for (const bool cold : {false, true}) {
    TransferCase test(
        Tensors(),
        {.faults = FaultyReader::Faults{.cold_from = cold ? 0 : 1ull << 40}, .fake_host = true, .copy = true});
    const auto result = test.Run("cpu");
    ExpectAll(test, result);
    for (size_t i = 0; i < result->segments.size(); ++i) {
      std::string bytes = test.SegmentBytes(*result, i);
      for (const PlannedTensor& tensor : test.plan().tensors) {
        if (tensor.segment == i) bytes.replace(tensor.segment_offset, tensor.bytes, tensor.bytes, '\0');
      }
      EXPECT_EQ(bytes.find_first_not_of('\0'), std::string::npos) << "segment " << i << (cold ? ", cold" : "");
    }
  }
}

}  // namespace
}  // namespace keyload
