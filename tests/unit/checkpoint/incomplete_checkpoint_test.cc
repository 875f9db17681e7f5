#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/header_cache.h"
#include "tests/support/checkpoint_builder.h"
#include "tests/unit/checkpoint/opening_test.h"

namespace keyload {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class IncompleteCheckpointTest : public OpeningTest {};

TEST_F(IncompleteCheckpointTest, AllAbsentShardsAreNamedAndCounted) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b")}, {Tensor("c")}, {Tensor("d")}});
  for (const size_t absent : {0, 1, 3}) std::filesystem::remove(dir_.File(files[absent]));
  EXPECT_THAT(Refusal(), HasSubstr("3 of 4 shards are absent: " + files[0] + ", " + files[1] + ", " + files[3]));
  const absl::Status status = Open().status();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointNotFound);
  EXPECT_EQ(ErrorDetails(status)["absent"], files[0] + ", " + files[1] + ", " + files[3]);
  EXPECT_EQ(ErrorDetails(status)["absent_count"], "3");
}

TEST_F(IncompleteCheckpointTest, DownloadsThatAreNotFinishedAreMentioned) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b")}});
  std::filesystem::remove(dir_.File(files[1]));
  dir_.MakeDir(".cache/huggingface/download");
  WriteFile(dir_.File(".cache/huggingface/download/x.incomplete"), std::string(5000, 'x'));
  EXPECT_THAT(Refusal(), HasSubstr("1 download was not finished: .cache/huggingface/download/x.incomplete (4.9 KiB)"));
}

TEST_F(IncompleteCheckpointTest, BlobsOfAHubCacheThatAreNotFinishedAreMentioned) {
  const std::string blobs = dir_.MakeDir("models--o--n/blobs"), snapshot = dir_.MakeDir("models--o--n/snapshots/rev");
  WriteFile(blobs + "/feed.incomplete", "x");
  path_ = dir_.File("models--o--n");
  EXPECT_THAT(Refusal(), HasSubstr("has no weights in it; 1 download was not finished: " + blobs + "/feed.incomplete"));
  WriteIndex(snapshot + "/model.safetensors.index.json", {{"a", "gone.safetensors"}});
  EXPECT_THAT(Refusal(), HasSubstr("1 of 1 shard is absent: gone.safetensors; 1 download was not finished"));
}

TEST_F(IncompleteCheckpointTest, AnIndexWhoseFilesAreAllGoneIsStaleWhereOtherWeightsAre) {
  WriteIndex(dir_.File("model.safetensors.index.json"), {{"a", "a.safetensors"}, {"b", "b.safetensors"}});
  EXPECT_THAT(Refusal(), Not(HasSubstr("stale")));
  WriteSafetensors(dir_.File("merged.safetensors"), {Tensor("a")});
  EXPECT_THAT(Refusal(), HasSubstr("The index is stale: none of its files is there, and other weights are "
                                   "(merged.safetensors)"));
}

TEST_F(IncompleteCheckpointTest, AllShardsThatAreCutOffAreNamedWithWhatTheyLack) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a", 500)}, {Tensor("b")}, {Tensor("c", 900)}});
  const auto cut = [&](size_t shard, uint64_t bytes) {
    std::filesystem::resize_file(dir_.File(files[shard]), std::filesystem::file_size(dir_.File(files[shard])) - bytes);
  };
  cut(0, 10);
  cut(2, 300);
  EXPECT_THAT(Refusal(), HasSubstr("2 of 3 shards are cut off, so fetch them again: " + files[0] + " lacks 10 bytes, " +
                                   files[2] + " lacks 300 bytes"));
  std::filesystem::remove(dir_.File(files[1]));
  EXPECT_THAT(Refusal(), HasSubstr("1 of 3 shards is absent: " + files[1] + ". 2 of 3 shards are cut off"));
  EXPECT_EQ(ErrorReason(Open().status()), Reason::kCheckpointNotFound);
}

TEST_F(IncompleteCheckpointTest, ShardsMayBeAbsentForWhoNeedsOnlySomeKeys) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b"), Tensor("c")}});
  std::filesystem::remove(dir_.File(files[1]));
  HeaderCache cache({});
  for (int i = 0; i < 2; ++i) {
    const Opened opened = Open({.cache = &cache}, true);
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ((*opened)->Find("a"), 0);
    ASSERT_EQ((*opened)->absent_keys().size(), 2u);
    EXPECT_EQ((*opened)->absent_keys()[0].name, "b");
    EXPECT_EQ((*opened)->absent_keys()[0].shard, 1u);
    EXPECT_TRUE((*opened)->index_only_keys().empty());
    EXPECT_EQ((*opened)->shards()[1].fd, nullptr);
    EXPECT_TRUE((*opened)->CheckEntries().ok());
    EXPECT_THAT((*opened)->Warnings().front(), HasSubstr("1 of its 2 shards is absent, with 2 keys"));
    EXPECT_EQ(ErrorReason(Open({.cache = &cache}).status()), Reason::kCheckpointNotFound);
  }
}

TEST_F(IncompleteCheckpointTest, AnAbsentShardOfAKnownCheckpointMayBeAbsentToo) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b")}, {Tensor("c")}});
  HeaderCache cache({.now = [] { return absl::Now() + absl::Minutes(1); }});
  ASSERT_TRUE(Open({.cache = &cache}, true).ok());
  std::filesystem::remove(dir_.File(files[0]));
  const Opened opened = Open({.cache = &cache}, true);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->tensors().size(), 2u);
  EXPECT_EQ((*opened)->absent_keys().size(), 1u);
}

TEST_F(IncompleteCheckpointTest, ShardsThatAreCutOffAreRefusedForSomeKeysToo) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b")}, {Tensor("c")}});
  std::filesystem::remove(dir_.File(files[0]));
  std::filesystem::resize_file(dir_.File(files[1]), 20);
  EXPECT_FALSE(Open({}, true).ok());
}

TEST_F(IncompleteCheckpointTest, ARepositoryOfTheHubStandsForItsSnapshot) {
  const std::string repository = dir_.MakeDir("models--o--n");
  for (const char* revision : {"aaa", "bbb"}) {
    WriteSafetensors(dir_.MakeDir("models--o--n/snapshots/" + std::string(revision)) + "/model.safetensors",
                     {Tensor(revision)});
  }
  path_ = repository;
  EXPECT_THAT(Refusal(), HasSubstr("holds 2 snapshots (aaa, bbb)"));
  dir_.MakeDir("models--o--n/refs");
  WriteFile(repository + "/refs/main", "bbb\n");
  const Opened opened = Open();
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->Find("bbb"), 0);
  EXPECT_EQ((*opened)->resolved(), repository + "/snapshots/bbb");
  WriteFile(repository + "/refs/main", "ccc");
  EXPECT_THAT(Refusal(), HasSubstr("names ccc, which is not among its snapshots (aaa, bbb)"));
  WriteFile(repository + "/refs/main", "../../x");
  EXPECT_THAT(Refusal(), HasSubstr("refs/main names none of them"));
}

}  // namespace
}  // namespace keyload
