#include "server/checkpoint/metadata_aliases.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/checkpoint/header_parsing.h"

namespace keyload {
namespace {

using testing::ElementsAre;

// The aliases in the metadata of a file with the tensors "a" and "b", as "alias=stored".
std::vector<std::string> AliasesOf(std::string_view metadata) {
  const auto header = ParseJson(std::string(R"({"__metadata__":)") + std::string(metadata) +
                                    R"(,"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                    R"("b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                                2);
  if (!header.ok()) return {std::string(header.status().message())};
  std::vector<std::string> aliases;
  if (header->aliases == nullptr) return aliases;
  for (const StoredAlias& names : *header->aliases) aliases.push_back(names.alias + "=" + names.stored);
  return aliases;
}

TEST(MetadataAliases, AreNamesWhoseTextIsATensor) {
  EXPECT_THAT(AliasesOf(R"({"format":"pt","c":"a","d.e":"b","f":"a"})"), ElementsAre("c=a", "d.e=b", "f=a"));
}

TEST(MetadataAliases, OtherEntriesAreNone) {
  for (const char* metadata : {"null", "{}", R"({"format":"pt"})", R"({"format":"a"})", R"({"c":"z"})", R"({"":"a"})"})
    EXPECT_THAT(AliasesOf(metadata), ElementsAre()) << metadata;
}

TEST(MetadataAliases, AStoredTensorIsNoAlias) { EXPECT_THAT(AliasesOf(R"({"a":"b","b":"b"})"), ElementsAre()); }

TEST(MetadataAliases, ANameThatComesTwiceCountsOnce) {
  EXPECT_THAT(AliasesOf(R"({"c":"a","c":"b"})"), ElementsAre("c=a"));
}

TEST(MetadataAliases, EscapesAreRead) { EXPECT_THAT(AliasesOf(R"({"\u0063.\"x":"\u0061"})"), ElementsAre("c.\"x=a")); }

}  // namespace
}  // namespace keyload
