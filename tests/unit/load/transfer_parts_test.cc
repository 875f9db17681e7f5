// Keys of several parts: every byte at its place, by every way that bytes go.

#include <gtest/gtest.h>

#include "server/base/error.h"
#include "tests/unit/load/transfer_case.h"

namespace keyload {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TestTensor Tensor(const std::string& name, uint64_t bytes) {
  return {.name = name, .dtype = DType::kU8, .shape = {bytes}, .data = PatternBytes(name, bytes)};
}

// Experts in the order of the file, which is not that of their numbers, with other tensors among them.
std::vector<TestTensor> Tensors() {
  return {Tensor("e.0", 3 * kMiB + 7), Tensor("e.10", 5), Tensor("norm", 77), Tensor("e.2", 5 * kMiB + 1),
          Tensor("qk", 1000),          Tensor("e.1", 0),  Tensor("end", 13)};
}

std::vector<CaseMade> Made() {
  return {{"e", {"e.0", "e.1", "e.2", "e.10"}}, {"q", {{"qk", 0, 300}}}, {"k", {{"qk", 300, 700}}}};
}

class TransferParts : public testing::TestWithParam<std::string> {
 protected:
  static void ExpectAll(TransferCase& test) {
    test.made = Made();
    const auto result = test.Run(GetParam());
    ASSERT_TRUE(result.ok()) << result.status();
    const std::vector<TestTensor> tensors = Tensors();
    EXPECT_TRUE(test.Bytes(*result, "e") == tensors[0].data + tensors[3].data + tensors[1].data);
    EXPECT_EQ(test.Bytes(*result, "q"), tensors[4].data.substr(0, 300));
    EXPECT_EQ(test.Bytes(*result, "k"), tensors[4].data.substr(300));
    EXPECT_EQ(test.Bytes(*result, "norm"), tensors[2].data);
    EXPECT_EQ(test.Bytes(*result, "end"), tensors[6].data);
  }
};

TEST_P(TransferParts, CachedBlocksGoWhereTheirPartsBelong) {
  TransferCase test(Tensors(), {.faults = std::nullopt, .copy = true});
  ExpectAll(test);
  EXPECT_EQ(test.report.bytes.read, test.plan().selected_bytes) << "each byte once";
}

TEST_P(TransferParts, ColdBlocksToo) {
  TransferCase test(Tensors(), {.faults = FaultyReader::Faults{.cold_from = 0}, .copy = true});
  ExpectAll(test);
}

INSTANTIATE_TEST_SUITE_P(Devices, TransferParts, testing::Values("cuda:0", "cpu"),
                         [](const auto& device) { return device.param == "cpu" ? "Host" : "Gpu"; });

TEST(TransferParts, MappedNeighboursStayMapped) {
  TransferCase test(Tensors());
  test.made = Made();
  const auto result = test.Run("cpu");
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(test.report.bytes.mapped, 77 + 1000 + 13);
  EXPECT_EQ(test.report.bytes.read, 8 * kMiB + 13 + 77) << "norm is a gap between parts, too small to leave out";
  EXPECT_EQ(test.Bytes(*result, "k"), PatternBytes("qk", 1000).substr(300));
}

TEST(TransferParts, PaddingIsZeroAndNothingElseIs) {
  const std::vector<TestTensor> tensors = {Tensor("e.1", 300), Tensor("n", 3), Tensor("e.0", 200)};
  TransferCase test(tensors, {.faults = std::nullopt, .fake_host = true, .copy = true});
  test.made = {{"e", {"e.0", "e.1"}}};
  const auto result = test.Run("cpu");
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(test.plan().segments.size(), 1);
  const std::string e = tensors[2].data + tensors[0].data;
  const std::string padded = tensors[1].data + std::string(253, '\0') + e + std::string(12, '\0');
  EXPECT_EQ(test.SegmentBytes(*result, 0), padded) << "in the order of the first parts in the file";
}

TEST(TransferParts, AFileThatEndsInOnePartFails) {
  TransferCase test(Tensors(), {.faults = FaultyReader::Faults{.end_of_file_at = 6 * kMiB}});
  test.made = Made();
  const auto result = test.Run("cuda:0");
  EXPECT_EQ(ErrorReason(result.status()), Reason::kCheckpointTruncated) << result.status();
}

TEST(TransferParts, ProgressCountsParts) {
  TransferCase test(Tensors());
  test.made = Made();
  test.gpu().HoldCopies();
  uint64_t total = 0;
  const auto result = test.Run("cuda:0", {}, [&](const LoadProgress& progress) {
    total = progress.tensors_total;
    test.gpu().ReleaseCopies();
  });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(total, 8) << "four experts, q, k, norm and end";
}

}  // namespace
}  // namespace keyload
