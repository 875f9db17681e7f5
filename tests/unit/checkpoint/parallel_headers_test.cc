#include <gtest/gtest.h>

#include <stop_token>

#include "server/base/error.h"
#include "server/base/parallel.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/header_cache.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

constexpr uint32_t kShards = 40;
constexpr uint32_t kTensorsPerShard = 5;

class ParallelHeadersTest : public ::testing::Test {
 protected:
  ParallelHeadersTest() : roots_(ModelRoots::Create({dir_.path()}).value()) {
    WriteSparseCheckpoint(dir_.path(), kShards, kTensorsPerShard, 64);
    index_ = *Open(nullptr);
  }

  absl::StatusOr<std::shared_ptr<const CheckpointIndex>> Open(Executor* threads, const RequestContext& context = {}) {
    return OpenCheckpoint(roots_, {.path = dir_.path(), .weights = ""}, context, {.threads = threads});
  }
  // The file of shard `number`, counted from 0.
  std::string File(uint32_t number) { return index_->shards()[number].resolved; }

  TempDir dir_;
  const ModelRoots roots_;
  Executor threads_{{.name = "header", .threads = 4, .queue_limit = 16}};
  std::shared_ptr<const CheckpointIndex> index_;  // as one thread reads it
};

TEST_F(ParallelHeadersTest, GiveWhatOneThreadGives) {
  const auto parallel = Open(&threads_);
  ASSERT_TRUE(parallel.ok()) << parallel.status();
  ASSERT_EQ((*parallel)->tensors().size(), size_t{kShards} * kTensorsPerShard);
  for (size_t i = 0; i < (*parallel)->tensors().size(); ++i) {
    const StoredTensor& a = index_->tensors()[i];
    const StoredTensor& b = (*parallel)->tensors()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.offset, b.offset);
    EXPECT_EQ(a.shard, b.shard);
  }
  for (size_t i = 0; i < kShards; ++i) EXPECT_EQ((*parallel)->shards()[i].file, index_->shards()[i].file);
}

TEST_F(ParallelHeadersTest, TheKeysOfAllShardsTogetherAreBounded) {
  HeaderCache cache({.max_bytes = 1 << 20});
  const auto open = [&](uint64_t max_keys) {
    return OpenCheckpoint(roots_, {.path = dir_.path(), .weights = ""}, {},
                          {.threads = &threads_, .cache = &cache, .max_keys = max_keys})
        .status();
  };
  constexpr uint64_t kKeys = uint64_t{kShards} * kTensorsPerShard;
  EXPECT_EQ(ErrorReason(open(kKeys - 1)), Reason::kCheckpointCorrupt);
  EXPECT_TRUE(open(kKeys).ok());
  EXPECT_EQ(ErrorReason(open(kKeys - 1)), Reason::kCheckpointCorrupt) << "known headers count too";
}

TEST_F(ParallelHeadersTest, TellOfTheFirstBrokenShardInOrder) {
  for (const uint32_t broken : {31u, 9u, 17u}) WriteFile(File(broken), "short");
  const absl::Status expected = Open(nullptr).status();
  EXPECT_EQ(ErrorDetails(expected)["shard"], index_->shards()[9].file);
  for (int round = 0; round < 20; ++round) EXPECT_EQ(Open(&threads_).status(), expected);
}

TEST_F(ParallelHeadersTest, EndWhenTheCallerCancels) {
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ErrorReason(Open(&threads_, {.stop = stop.get_token()}).status()), Reason::kLoadCancelled);
}

TEST_F(ParallelHeadersTest, ServeManyCallersOnTheSameThreads) {
  HeaderCache cache{{.now = [] { return absl::Now() + absl::Hours(1); }}};
  const absl::Status status = ParallelFor(&threads_, 64, [&](size_t) {
    return OpenCheckpoint(roots_, {.path = dir_.path()}, {}, {.threads = &threads_, .cache = &cache}).status();
  });
  EXPECT_TRUE(status.ok()) << status;
}

}  // namespace
}  // namespace keyload
