#include "server/checkpoint/index_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"

namespace keyload {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<IndexFile> Parse(std::string_view json) { return ParseIndexFile(JsonBuffer(json), "i.json"); }

ErrorMetadata ExpectCorrupt(std::string_view json, const std::string& text) {
  const absl::Status status = Parse(json).status();
  EXPECT_EQ(ErrorReason(status), Reason::kCheckpointCorrupt) << json.substr(0, 200);
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  EXPECT_EQ(ErrorDetails(status)["file"], "i.json");
  return ErrorDetails(status);
}

TEST(IndexFileTest, ShardsAreSortedAndDistinctAndEntriesPointToThem) {
  auto index = Parse(R"({"metadata":{"total_size":3},"weight_map":{"x":"b","y":"a","z":"b"}})");
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_THAT(index->shards, ElementsAre("a", "b"));
  ASSERT_EQ(index->entries.size(), 3u);
  EXPECT_EQ(index->entries[0].key, "x");
  EXPECT_EQ(index->entries[0].shard, 1u);
  EXPECT_EQ(index->entries[1].shard, 0u);
  EXPECT_EQ(index->entries[2].shard, 1u);
}

TEST(IndexFileTest, MetadataIsOptional) { EXPECT_TRUE(Parse(R"({"weight_map":{}})").ok()); }

TEST(IndexFileTest, WeightMapIsNot) {
  ExpectCorrupt(R"({"metadata":{}})", "no weight_map");
  ExpectCorrupt(R"({"weight_map":[]})", "not an object");
  ExpectCorrupt(R"({"weight_map":{},"weight_map":{}})", "twice");
}

TEST(IndexFileTest, ShardNamesArePlainFileNames) {
  for (const char* name : {"../x", "/x", "a/../b", "a//b", "a/", "./a", "..", ".", "", "a\\u0000b"}) {
    ErrorMetadata details = ExpectCorrupt(std::string(R"({"weight_map":{"k":")") + name + "\"}}", "shard name");
    EXPECT_EQ(details["key"], "k");
    EXPECT_TRUE(details.contains("shard"));
  }
}

TEST(IndexFileTest, AShardIsAString) {
  ExpectCorrupt(R"({"weight_map":{"k":7}})", "key \"k\": the shard is not a string");
}

TEST(IndexFileTest, BrokenJsonIsCorrupt) {
  for (const char* json : {"", "{", "[]", R"({"weight_map":{"k":"a"})", R"({"weight_map":{}} x)",
                           R"({"weight_map":{"k":"a",}})", R"({"x":[1 2],"weight_map":{}})"}) {
    ExpectCorrupt(json, "");
  }
}

TEST(IndexFileTest, KeysOverTheLimitAreRefused) {
  ExpectCorrupt("{\"weight_map\":{\"" + std::string(4097, 'k') + "\":\"a\"}}", "longer than 4096");
}

TEST(IndexFileTest, PickleShardsAreAnotherFormat) {
  const absl::Status status = Parse(R"({"weight_map":{"k":"pytorch_model-00001-of-00002.bin"}})").status();
  EXPECT_EQ(ErrorReason(status), Reason::kFormatNotSupported);
}

TEST(IndexFileTest, TheNumberOfShardsIsLimited) {
  std::string json = R"({"weight_map":{"k":"s")";
  for (size_t i = 0; i < kMaxShards; ++i) json += ",\"k" + std::to_string(i) + "\":\"s" + std::to_string(i) + "\"";
  ExpectCorrupt(json + "}}", "more than 10000 shards");
}

}  // namespace
}  // namespace keyload
