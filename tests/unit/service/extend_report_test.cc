// What the report of an EXTEND says: keys and devices of the whole model, bytes and shards of this load.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "server/base/strings.h"
#include "tests/unit/service/extend_case.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class ExtendReportTest : public ExtendTest {
 protected:
  // Of each of three layers, in two files: a is loaded, c is missing, d has another shape, e is unexpected.
  ExtendReportTest() {
    std::filesystem::remove(node_.dir() + "/model.safetensors");
    std::vector<std::vector<TestTensor>> shards(2);
    std::vector<std::string> expected;
    for (int i = 0; i < 3; ++i) {
      const std::string layer = StrCat("layers.", i, ".");
      std::vector<TestTensor>& shard = shards[i == 0 ? 0 : 1];
      shard.push_back({.name = layer + "a", .dtype = DType::kF32, .shape = {kBytes / 4}, .data = ""});
      shard.push_back({.name = layer + "d", .dtype = DType::kF16, .shape = {8}, .data = ""});
      shard.push_back({.name = layer + "e", .dtype = DType::kF16, .shape = {8}, .data = ""});
      for (const char* part : {"a", "c", "d"}) expected.push_back(layer + part);
    }
    files_ = WriteShardedCheckpoint(node_.dir(), shards);
    manifest_ = ManifestOf(expected, {kBytes / 4});
  }
  LoadSpec Layer(int layer, const std::string& device = "cuda:0") {
    LoadSpec spec = Spec({StrCat("layers.", layer, ".*")});
    spec.expected.manifest = manifest_;
    spec.device_map.policy = device;
    return spec;
  }
  LoadSpec LazyLayer(int layer) {
    LoadSpec spec = Layer(layer);
    spec.residency = LoadSpec::Residency::kLazy;
    return spec;
  }
  LoadReport Load(const LoadSpec& spec) {
    const absl::StatusOr<LoadReport> report = node_.Load(spec);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : LoadReport();
  }
  static absl::Duration Sum(const std::vector<Phase>& phases) {
    return std::accumulate(phases.begin(), phases.end(), absl::ZeroDuration(),
                           [](absl::Duration sum, const Phase& phase) { return sum + phase.duration; });
  }

  std::vector<std::string> files_;
  std::shared_ptr<const Manifest> manifest_;
};

TEST_F(ExtendReportTest, KeysAreThoseOfTheModel) {
  Load(Layer(0));
  const LoadReport report = Load(Layer(1));
  EXPECT_EQ(report.outcome, Outcome::kIncomplete);
  EXPECT_EQ(report.keys.expected, 9);
  EXPECT_EQ(report.keys.selected, 6);
  EXPECT_EQ(report.keys.not_selected, 3);
  EXPECT_EQ(report.keys.loaded, 2);
  EXPECT_EQ(report.keys.lazy, 0);
  EXPECT_EQ(report.keys.missing, 2);
  EXPECT_EQ(report.keys.mismatched, 2);
  EXPECT_EQ(report.keys.unexpected, 2);
  EXPECT_THAT(report.missing_keys, ElementsAre("layers.0.c", "layers.1.c"));
  EXPECT_THAT(report.unexpected_keys, ElementsAre("layers.0.e", "layers.1.e"));
  ASSERT_EQ(report.mismatched_keys.size(), 2);
  EXPECT_EQ(report.mismatched_keys[1].key, "layers.1.d");
}

TEST_F(ExtendReportTest, DevicesAreThoseOfTheModelButForWhatWasCopied) {
  Load(Layer(0));
  const LoadReport report = Load(Layer(1));
  EXPECT_THAT(report.device_map, ElementsAre(MapEntry{.module = "", .device = "cuda:0"}));
  ASSERT_EQ(report.devices.size(), 1);
  EXPECT_EQ(report.devices[0].tensors, 2);
  EXPECT_EQ(report.devices[0].tensor_bytes, 2 * kBytes);
  EXPECT_EQ(report.devices[0].missing_bytes, 4 * kBytes);
  EXPECT_EQ(report.devices[0].reserved_bytes, 2 * kBytes);
  EXPECT_EQ(report.devices[0].copied_bytes, kBytes);
}

TEST_F(ExtendReportTest, BytesAndShardsAreThoseOfTheLoad) {
  const LoadReport first = Load(Layer(0));
  Load(Layer(1));
  const LoadReport report = Load(Layer(2));
  EXPECT_NE(report.load, first.load);
  EXPECT_EQ(report.bytes.selected, kBytes);
  EXPECT_EQ(report.bytes.read, kBytes);
  EXPECT_EQ(report.bytes.cached, kBytes);
  EXPECT_EQ(report.bytes.mapped, 0);
  EXPECT_GE(report.bytes.peak_scratch, kBytes);
  ASSERT_EQ(report.shards.size(), 1);
  EXPECT_EQ(report.shards[0].file, files_[1]);
  EXPECT_EQ(report.shards[0].tensors, 1);
  EXPECT_EQ(report.shards[0].selected_bytes, kBytes);
  EXPECT_EQ(report.shards[0].read_bytes, kBytes);
  EXPECT_GT(report.shards[0].duration, absl::ZeroDuration());
  EXPECT_EQ(Sum(report.phases), report.total);
  EXPECT_GT(Sum(report.busy), absl::ZeroDuration());
}

TEST_F(ExtendReportTest, MappedBytesAreThoseOfTheLoad) {
  Load(Layer(0, "cpu"));
  const LoadReport report = Load(Layer(1, "cpu"));
  EXPECT_EQ(report.bytes.selected, kBytes);
  EXPECT_EQ(report.bytes.mapped, kBytes);
  EXPECT_EQ(report.devices[0].tensor_bytes, 2 * kBytes);
}

TEST_F(ExtendReportTest, ALazyOneAddsNothingToTheMemoryOfTheModel) {
  Load(Layer(0));
  const LoadReport report = Load(LazyLayer(1));
  EXPECT_EQ(report.keys.loaded, 1);
  EXPECT_EQ(report.keys.lazy, 1);
  EXPECT_EQ(report.bytes.selected, kBytes);
  EXPECT_EQ(report.bytes.read, 0);
  EXPECT_EQ(report.devices[0].tensors, 2);
  EXPECT_EQ(report.devices[0].reserved_bytes, kBytes);
  EXPECT_EQ(report.devices[0].copied_bytes, 0);
}

TEST_F(ExtendReportTest, WhatIsLazyInTheModelHasNoMemory) {
  Load(LazyLayer(0));
  const LoadReport report = Load(Layer(1));
  EXPECT_EQ(report.devices[0].tensors, 2);
  EXPECT_EQ(report.devices[0].reserved_bytes, kBytes);
}

TEST_F(ExtendReportTest, ARejectedOneSaysWhatTheModelWouldBe) {
  Load(Layer(0));
  LoadSpec spec = Layer(1);
  spec.limits.max_missing = 1;
  const LoadReport report = Load(spec);
  EXPECT_EQ(report.outcome, Outcome::kRejected);
  EXPECT_EQ(report.keys.missing, 2);
  EXPECT_EQ(report.bytes.selected, kBytes);
  EXPECT_EQ(report.devices[0].tensors, 2);
  EXPECT_EQ(report.devices[0].reserved_bytes, 2 * kBytes);
  EXPECT_EQ(gpu().used, kBytes);
}

TEST_F(ExtendReportTest, ThatLacksNothingIsOfThisRequestAndReadsNothing) {
  Load(Layer(0));
  const LoadReport second = Load(Layer(1));
  const uint64_t read = node_.reads().bytes();
  const LoaderNode::Started load = node_.Start(Layer(0));
  const absl::StatusOr<LoadReport> report = load.observer->WaitForEnd();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kIncomplete);
  EXPECT_EQ(report->generation, second.generation);
  EXPECT_NE(report->load, second.load);
  EXPECT_GT(report->start_time, second.start_time);
  EXPECT_EQ(report->keys.loaded, 2);
  EXPECT_EQ(report->keys.missing, 2);
  EXPECT_THAT(report->missing_keys, ElementsAre("layers.0.c", "layers.1.c"));
  EXPECT_THAT(report->device_map, ElementsAre(MapEntry{.module = "", .device = "cuda:0"}));
  EXPECT_EQ(report->devices[0].tensors, 2);
  EXPECT_EQ(report->devices[0].reserved_bytes, 2 * kBytes);
  EXPECT_EQ(report->devices[0].copied_bytes, 0);
  EXPECT_EQ(report->bytes.selected, 0);
  EXPECT_EQ(report->bytes.read, 0);
  EXPECT_THAT(report->shards, IsEmpty());
  EXPECT_THAT(report->busy, IsEmpty());
  EXPECT_EQ(Sum(report->phases), report->total);
  EXPECT_EQ(node_.reads().bytes(), read);
  EXPECT_THAT(load.observer->events(), ElementsAre("accepted", "planned", "end"));
}

TEST_F(ExtendReportTest, ThatLacksNothingLeavesTheModelWithTheReportOfItsLoad) {
  const LoadReport first = Load(Layer(0));
  Load(Layer(0));
  EXPECT_EQ(Info().generation, first.generation);
  EXPECT_EQ(Info().model->report().load, first.load);
  EXPECT_EQ(Info().state, ModelState::kResident);
}

TEST_F(ExtendReportTest, ThatLacksNothingCountsWhatIsLazyNow) {
  Load(Layer(0));
  ASSERT_TRUE(node_.Evict({}).ok());
  const LoadReport report = Load(Layer(0));
  EXPECT_EQ(report.keys.loaded, 0);
  EXPECT_EQ(report.keys.lazy, 1);
  EXPECT_EQ(report.devices[0].reserved_bytes, 0);
}

TEST_F(ExtendReportTest, ThatLacksNothingHasItsOwnWarningsAndLimits) {
  Load(Layer(0));
  LoadSpec spec = Layer(0);
  spec.select.include = {"z*"};
  EXPECT_THAT(Load(spec).warnings, ElementsAre(HasSubstr("matches none")));
  spec.limits.max_missing = 0;
  EXPECT_EQ(Load(spec).outcome, Outcome::kRejected);
}

TEST_F(ExtendReportTest, AReuseAfterwardsAnswersWithIt) {
  Load(Layer(0));
  const LoadReport extended = Load(Layer(1));
  LoadSpec spec = Layer(0);
  spec.if_exists = IfExists::kReuse;
  const LoadReport report = Load(spec);
  EXPECT_EQ(report.load, extended.load);
  EXPECT_EQ(report.keys.selected, 6);
  EXPECT_EQ(report.bytes.read, kBytes);
}

}  // namespace
}  // namespace keyload
