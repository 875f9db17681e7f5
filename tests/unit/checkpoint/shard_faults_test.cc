#include "server/checkpoint/shard_faults.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_format.h"
#include "server/base/error.h"

namespace keyload {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> Names(int from, int to, int of) {
  std::vector<std::string> names;
  for (int i = from; i <= to; ++i) names.push_back(absl::StrFormat("model-%05d-of-%05d.safetensors", i, of));
  return names;
}

TEST(ShardFaults, NamesThatFitAreWrittenOut) {
  EXPECT_EQ(NamesWithin(Names(1, 2, 3), 700), "model-00001-of-00003.safetensors, model-00002-of-00003.safetensors");
  EXPECT_EQ(NamesWithin({}, 700), "");
}

TEST(ShardFaults, NamesInARowBecomeOneWhereTheyDoNotFit) {
  EXPECT_EQ(NamesWithin(Names(2, 163, 163), 700), "model-{00002..00163}-of-00163.safetensors");
  std::vector<std::string> names = Names(9, 98, 100);
  names.insert(names.begin(), "model-00003-of-00100.safetensors");
  EXPECT_EQ(NamesWithin(names, 700), "model-00003-of-00100.safetensors, model-{00009..00098}-of-00100.safetensors");
  const std::vector<std::string> numbered = {"shard_8.safetensors", "shard_9.safetensors", "x.safetensors"};
  EXPECT_EQ(NamesWithin(numbered, 56), "shard_{8..9}.safetensors, x.safetensors");
}

TEST(ShardFaults, WhatDoesNotFitEitherIsCut) {
  std::vector<std::string> names;
  for (int i = 0; i < 1000; i += 2) names.push_back(absl::StrFormat("s%03d.safetensors", i));
  const std::string text = NamesWithin(names, 700);
  EXPECT_LE(text.size(), 700u);
  EXPECT_TRUE(text.ends_with(", ..."));
  EXPECT_LE(NamesWithin({std::string(900, 'x')}, 700).size(), 700u);
}

TEST(ShardFaults, OtherErrorsEndAnOpen) {
  ShardFaults faults;
  EXPECT_FALSE(faults.Take(0, MakeError(Reason::kLoadCancelled, "x")));
  EXPECT_FALSE(faults.Take(0, MakeError(Reason::kCheckpointCorrupt, "x")));
  EXPECT_FALSE(faults.any());
  EXPECT_TRUE(faults.Take(1, MakeError(Reason::kCheckpointNotFound, "x")));
  EXPECT_TRUE(faults.Take(0, MakeError(Reason::kCheckpointNotFound, "x")));
  EXPECT_TRUE(faults.only_absent());
  EXPECT_EQ(faults.absent(), (std::vector<uint32_t>{0, 1}));
  EXPECT_TRUE(faults.Take(2, MakeError(Reason::kCheckpointTruncated, "x")));
  EXPECT_FALSE(faults.only_absent());
  EXPECT_THAT(
      std::string(faults.Tell("i", {"a", "b", "c"}, "; hint").message()),
      HasSubstr("i: 2 of 3 shards are absent: a, b; hint. 1 of 3 shards is cut off, so fetch them again: c ends"));
}

}  // namespace
}  // namespace keyload
