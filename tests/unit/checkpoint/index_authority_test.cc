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

class IndexAuthorityTest : public OpeningTest {};

TEST_F(IndexAuthorityTest, ATensorInTwoShardsCountsWhereTheIndexSays) {
  WriteSafetensors(dir_.File("base.safetensors"), {Tensor("a", 4), Tensor("b", 5), Tensor("c", 6)});
  WriteSafetensors(dir_.File("overlay.safetensors"), {Tensor("b", 7)});
  WriteSafetensors(dir_.File("zoo.safetensors"), {Tensor("b", 9), Tensor("d", 1)});
  const std::string base = "base.safetensors", overlay = "overlay.safetensors", zoo = "zoo.safetensors";
  for (const auto& [shard, size] : {std::pair<std::string, uint64_t>{base, 5}, {overlay, 7}, {zoo, 9}}) {
    WriteIndex(dir_.File("model.safetensors.index.json"),
               {{"a", base}, {"b", shard}, {"c", base}, {"d", zoo}, {"e", overlay}});
    const Opened opened = Open();
    ASSERT_TRUE(opened.ok()) << opened.status();
    ASSERT_EQ((*opened)->tensors().size(), 4u);
    const StoredTensor& b = (*opened)->tensors()[(*opened)->Find("b")];
    EXPECT_EQ(b.bytes, size);
    EXPECT_EQ((*opened)->shards()[b.shard].file, shard);
    for (const char* name : {"a", "c", "d"}) EXPECT_GE((*opened)->Find(name), 0) << name;
    EXPECT_THAT((*opened)->Warnings().front(), HasSubstr("2 tensors are in two shards"));
    uint32_t next = 0;
    for (const ShardHeader& header : (*opened)->headers().shards()) {
      EXPECT_EQ(header.first_tensor, next);
      next += header.tensor_count;
    }
    EXPECT_EQ(next, 4u);
  }
}

TEST_F(IndexAuthorityTest, WhatIsLeftOutOfOneCheckpointCountsInAnother) {
  WriteSafetensors(dir_.File("x.safetensors"), {Tensor("a"), Tensor("b", 5)});
  WriteSafetensors(dir_.File("y.safetensors"), {Tensor("b", 7)});
  HeaderCache cache({.now = [] { return absl::Now() + absl::Minutes(1); }});
  const auto size_of_b = [&](const std::string& index, const std::string& shard) -> uint64_t {
    WriteIndex(dir_.File(index), {{"a", "x.safetensors"}, {"b", shard}, {"z", "y.safetensors"}});
    path_ = dir_.File(index);
    const Opened opened = Open({.cache = &cache});
    return opened.ok() ? (*opened)->tensors()[(*opened)->Find("b")].bytes : 0;
  };
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(size_of_b("first.safetensors.index.json", "y.safetensors"), 7u);
    EXPECT_EQ(size_of_b("second.safetensors.index.json", "x.safetensors"), 5u);
  }
}

TEST_F(IndexAuthorityTest, AKnownCheckpointWithOneNewShardIsPutTogetherAnew) {
  WriteSafetensors(dir_.File("x.safetensors"), {Tensor("a"), Tensor("b", 5)});
  WriteSafetensors(dir_.File("y.safetensors"), {Tensor("b", 7), Tensor("c")});
  WriteIndex(dir_.File("model.safetensors.index.json"),
             {{"a", "x.safetensors"}, {"b", "y.safetensors"}, {"c", "y.safetensors"}});
  HeaderCache cache({.now = [] { return absl::Now() + absl::Minutes(1); }});
  for (const uint64_t size : {7, 7, 8, 8}) {
    if (size == 8) WriteSafetensors(dir_.File("y.safetensors"), {Tensor("b", 8), Tensor("c")});
    const Opened opened = Open({.cache = &cache});
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ((*opened)->tensors()[(*opened)->Find("b")].bytes, size);
    EXPECT_EQ((*opened)->tensors().size(), 3u);
    EXPECT_FALSE((*opened)->Warnings().empty());
  }
}

TEST_F(IndexAuthorityTest, ACopyWhereTheIndexDoesNotSayItIsCorrupt) {
  WriteSafetensors(dir_.File("x.safetensors"), {Tensor("a")});
  WriteSafetensors(dir_.File("y.safetensors"), {Tensor("a")});
  WriteSafetensors(dir_.File("z.safetensors"), {Tensor("b")});
  WriteIndex(dir_.File("model.safetensors.index.json"),
             {{"a", "z.safetensors"}, {"p", "x.safetensors"}, {"q", "y.safetensors"}});
  EXPECT_THAT(Refusal(), HasSubstr("says that it is in shard z.safetensors, where it is not"));
  EXPECT_EQ(ErrorReason(Open().status()), Reason::kCheckpointCorrupt);
}

TEST_F(IndexAuthorityTest, ShardsInFoldersBelowTheCheckpointAreRead) {
  WriteSafetensors(dir_.MakeDir("m/parts/deep") + "/s.safetensors", {Tensor("a")});
  WriteSafetensors(dir_.File("m/t.safetensors"), {Tensor("b")});
  WriteIndex(dir_.File("m/model.safetensors.index.json"), {{"a", "parts/deep/s.safetensors"}, {"b", "t.safetensors"}});
  path_ = dir_.File("m");
  const Opened opened = Open();
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->shards()[0].file, "parts/deep/s.safetensors");
  EXPECT_TRUE((*opened)->CheckEntries().ok());
  // Another folder in its place, with the same file in it, is another version.
  std::filesystem::rename(dir_.File("m/parts"), dir_.File("m/old"));
  WriteSafetensors(dir_.MakeDir("m/parts/deep") + "/s.safetensors", {Tensor("a")});
  EXPECT_EQ(ErrorReason((*opened)->CheckEntries()), Reason::kCheckpointChanged);
}

TEST_F(IndexAuthorityTest, NoShardIsReadAboveTheCheckpoint) {
  WriteSafetensors(dir_.File("s.safetensors"), {Tensor("a")});
  dir_.MakeDir("m/sub");
  path_ = dir_.File("m");
  for (const char* shard : {"../s.safetensors", "sub/../../s.safetensors", "/etc/passwd", "sub//s.safetensors"}) {
    WriteIndex(dir_.File("m/model.safetensors.index.json"), {{"a", shard}});
    EXPECT_EQ(ErrorReason(Open().status()), Reason::kCheckpointCorrupt) << shard;
  }
  // A folder that is a link leads no further than the roots.
  const TempDir outside;
  WriteSafetensors(outside.File("s.safetensors"), {Tensor("a")});
  ASSERT_EQ(::symlink(outside.path().c_str(), dir_.File("m/link").c_str()), 0);
  WriteIndex(dir_.File("m/model.safetensors.index.json"), {{"a", "link/s.safetensors"}});
  EXPECT_EQ(ErrorReason(Open().status()), Reason::kPathNotAllowed);
}

}  // namespace
}  // namespace keyload
