// What a load does to the page cache: WARM, HOLD and DROP.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "server/base/error.h"
#include "server/service/page_cache_load.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

constexpr uint64_t kBytes = 1ull << 20;
using PageCache = LoadSpec::PageCache;

class PageCacheLoad : public testing::Test {
 protected:
  PageCacheLoad() : PageCacheLoad(LoaderNode::Options()) {}
  explicit PageCacheLoad(const LoaderNode::Options& options) : node_(options) {
    std::vector<TestTensor> tensors;
    for (const char* name : {"a", "b", "c"}) {
      tensors.push_back({.name = name, .dtype = DType::kU8, .shape = {kBytes}, .data = ""});
    }
    WriteShardedCheckpoint(node_.dir(), {tensors, {{.name = "d", .dtype = DType::kU8, .shape = {kBytes}, .data = ""}}});
  }
  LoadSpec Spec(PageCache mode, const std::string& policy = "") {
    LoadSpec spec = node_.Spec();
    spec.page_cache = mode;
    spec.device_map.policy = policy;
    return spec;
  }

  LoaderNode node_;
};

TEST_F(PageCacheLoad, WarmReadsTheSelectionAndKeepsNoCopy) {
  LoadSpec spec = Spec(PageCache::kWarm, "cpu");
  spec.select.include = {"b", "d"};
  const absl::StatusOr<LoadReport> report = node_.Load(spec);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete) << report->error;
  EXPECT_EQ(report->bytes.selected, 2 * kBytes);
  EXPECT_EQ(report->bytes.read, 2 * kBytes);
  EXPECT_EQ(report->keys.lazy, 2);
  ASSERT_EQ(report->shards.size(), 2);
  EXPECT_EQ(report->shards[0].read_bytes, kBytes);
  const ModelHandle model = *node_.registry().Use("m");
  EXPECT_EQ(model->residency().totals().allocated_bytes, 0);
  EXPECT_EQ(PageCacheBytes(*model), 2 * kBytes);
  EXPECT_TRUE(node_.ReadKey("m", "b") == PatternBytes("b", kBytes));
}

TEST_F(PageCacheLoad, WarmLeavesTensorsInTheirFiles) {
  const auto field = [&](const LoadSpec& spec) { return ErrorDetails(node_.Load(spec).status())["field"]; };
  EXPECT_EQ(field(Spec(PageCache::kWarm, "cuda:0")), "spec.device_map");
  LoadSpec spec = Spec(PageCache::kHold);
  spec.device_map.entries = {{"", "cpu"}};
  EXPECT_EQ(field(spec), "spec.device_map");
  spec = Spec(PageCache::kWarm);
  spec.dtype = DType::kF32;
  EXPECT_EQ(field(spec), "spec.dtype");
  spec = Spec(PageCache::kWarm);
  spec.host_storage = HostStorage::kCopied;
  EXPECT_EQ(field(spec), "spec.host_storage");
  for (const PageCache mode : {PageCache::kWarm, PageCache::kDrop}) {
    spec = Spec(mode);
    spec.residency = LoadSpec::Residency::kLazy;
    EXPECT_EQ(field(spec), "spec.page_cache");
  }
}

TEST_F(PageCacheLoad, HoldSaysWhatItCouldNotKeep) {
  const absl::StatusOr<LoadReport> report = node_.Load(Spec(PageCache::kHold));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete);
  EXPECT_THAT(report->warnings, testing::Contains(testing::HasSubstr("could not be held")));
  EXPECT_EQ(node_.held().held(), 0);
}

class HoldingLoad : public PageCacheLoad {
 protected:
  HoldingLoad() : PageCacheLoad({.hold_bytes = 64 << 20}) {}
};

TEST_F(HoldingLoad, TheModelHoldsUntilItIsUnloaded) {
  const absl::StatusOr<LoadReport> report = node_.Load(Spec(PageCache::kHold));
  ASSERT_TRUE(report.ok()) << report.status();
  if (!report->warnings.empty()) GTEST_SKIP() << report->warnings[0];
  EXPECT_GE(node_.held().held(), 4 * kBytes);
  ASSERT_TRUE(node_.Unload("m").ok());
  EXPECT_EQ(node_.held().held(), 0);
}

TEST_F(PageCacheLoad, DropKeepsTheCopyAndLoads) {
  const absl::StatusOr<LoadReport> report = node_.Load(Spec(PageCache::kDrop, "cuda:0"));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome, Outcome::kComplete);
  EXPECT_EQ(report->keys.loaded, 4);
  EXPECT_TRUE(node_.ReadKey("m", "d") == PatternBytes("d", kBytes));
  EXPECT_EQ(PageCacheBytes(**node_.registry().Use("m")), 0);
}

TEST_F(PageCacheLoad, DropGivesThePagesBack) {
  ASSERT_TRUE(node_.Load(Spec(PageCache::kKeep, "cuda:0")).ok());
  const ModelHandle model = *node_.registry().Use("m");
  const CheckpointIndex& index = *model->content().keys->index;
  const ShardRanges ranges = CopiedRanges(index, *model->content().plan);
  const auto cached = [&] {
    uint64_t bytes = 0;
    for (size_t i = 0; i < ranges.size(); ++i) {
      bytes += ResidentBytes(index.shards()[i].fd->get(), ranges[i]).value_or(0);
    }
    return bytes;
  };
  LoadReport report;
  for (const Shard& shard : index.shards()) ASSERT_EQ(::fsync(shard.fd->get()), 0);  // what is dirty is not dropped
  if (cached() == 0) GTEST_SKIP() << "this file system keeps nothing in the page cache, or does not tell";
  DropRanges(index, ranges, report);
  if (cached() > 4096 * 4) GTEST_SKIP() << "this file system does not drop pages";
  ASSERT_TRUE(node_
                  .Load([&] {
                    LoadSpec spec = Spec(PageCache::kDrop, "cuda:0");
                    spec.model = "n";
                    return spec;
                  }())
                  .ok());
  EXPECT_LE(cached(), 4096 * 4);  // pages at the ends of ranges stay
}

TEST_F(PageCacheLoad, WarmLeavesTheThreadsOfOtherLoadsAlone) {
  ASSERT_TRUE(node_.Load(Spec(PageCache::kWarm)).ok());
  const ModelHandle model = *node_.registry().Use("m");
  const KeyReport& keys = *model->content().keys;
  const ShardRanges ranges = RangesInFiles(keys, *model->content().plan, {});
  Executor io({.name = "io", .threads = 4});
  const TransferResources resources = {.io = &io, .workers = 1, .cold_workers = 1};
  for (int round = 0; round < 50; ++round) {
    LoadReport report;
    ASSERT_TRUE(WarmRanges(
                    keys, ranges, nullptr, resources, {},
                    [caller = std::this_thread::get_id()](const LoadProgress&) {
                      EXPECT_EQ(std::this_thread::get_id(), caller) << "the only one that this load may take";
                    },
                    report)
                    .ok());
  }
}

TEST_F(PageCacheLoad, RangesOfNeighboursAreOne) {
  ASSERT_TRUE(node_.Load(Spec(PageCache::kWarm)).ok());
  const ModelHandle model = *node_.registry().Use("m");
  const ShardRanges ranges = RangesInFiles(*model->content().keys, *model->content().plan, {});
  ASSERT_EQ(ranges.size(), 2);
  ASSERT_EQ(ranges[0].size(), 1);
  EXPECT_EQ(ranges[0][0].length, 3 * kBytes);
  EXPECT_EQ(ranges[1].size(), 1);
}

}  // namespace
}  // namespace keyload
