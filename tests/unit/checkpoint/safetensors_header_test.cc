#include "server/checkpoint/safetensors_header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "tests/unit/checkpoint/header_parsing.h"

namespace keyload {
namespace {

using ::testing::HasSubstr;

std::string U8(const std::string& name, const std::string& begin, const std::string& end, const std::string& size) {
  return "\"" + name + R"(":{"dtype":"U8","shape":[)" + size + R"(],"data_offsets":[)" + begin + "," + end + "]}";
}

void ExpectCorrupt(const std::string& json, size_t data_bytes, const std::string& text) {
  const auto result = ParseJson(json, data_bytes);
  ASSERT_FALSE(result.ok()) << json.substr(0, 200);
  EXPECT_EQ(ErrorReason(result.status()), Reason::kCheckpointCorrupt) << result.status();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(text));
  EXPECT_EQ(ErrorDetails(result.status()).at("file"), "x.safetensors");
}

TEST(SafetensorsHeaderTest, TensorsComeByOffsetWhateverTheOrderInTheHeader) {
  auto header = ParseJson("{" + U8("b", "4", "6", "2") + "," + U8("a", "0", "4", "4") + "}", 6);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->tensors[0].name, "a");
  EXPECT_EQ(header->tensors[1].name, "b");
  EXPECT_EQ(header->tensors[1].offset, header->data_offset + 4);
}

TEST(SafetensorsHeaderTest, AHoleNamesTheTensorAfterItAndWhereItBegins) {
  const std::string json = "{" + U8("a", "0", "4", "4") + "," + U8("b", "6", "8", "2") + "}";
  ExpectCorrupt(json, 8, "tensor \"b\": 2 bytes before it belong to no tensor");
  EXPECT_EQ(ErrorDetails(ParseJson(json, 8).status()).at("offset"), std::to_string(8 + json.size() + 4));
}

TEST(SafetensorsHeaderTest, OverlapNamesBothTensors) {
  ExpectCorrupt("{" + U8("a", "0", "4", "4") + "," + U8("b", "3", "5", "2") + "}", 5,
                "tensor \"b\": it overlaps tensor \"a\"");
}

TEST(SafetensorsHeaderTest, AnEmptyTensorInsideAnotherIsAnOverlap) {
  ExpectCorrupt("{" + U8("a", "0", "4", "4") + "," + U8("e", "2", "2", "0") + "}", 4, "overlaps");
}

TEST(SafetensorsHeaderTest, AnEmptyTensorBetweenOthersIsFine) {
  EXPECT_TRUE(
      ParseJson("{" + U8("a", "0", "4", "4") + "," + U8("e", "4", "4", "0") + "," + U8("b", "4", "5", "1") + "}", 5)
          .ok());
}

TEST(SafetensorsHeaderTest, BeginAfterEnd) {
  ExpectCorrupt("{" + U8("a", "4", "0", "4") + "}", 4, "end before they begin");
}

TEST(SafetensorsHeaderTest, ADuplicateNameThatOverlapsIsCalledADuplicate) {
  ExpectCorrupt("{" + U8("a", "0", "4", "4") + "," + U8("\\u0061", "0", "4", "4") + "}", 4, "comes twice");
}

TEST(SafetensorsHeaderTest, AnErrorInAnEntryTellsItsKeyAndPosition) {
  const std::string json = "{" + U8("a", "0", "4", "4") + R"(,"bad":{"dtype":"F33"}})";
  const auto details = ErrorDetails(ParseJson(json, 4).status());
  EXPECT_EQ(details.at("key"), "bad");
  EXPECT_EQ(details.at("offset"), std::to_string(8 + json.find("\"bad\"")));
}

TEST(SafetensorsHeaderTest, NumbersMustBeWholeAndNotNegative) {
  for (const char* number :
       {"-1", "-0", "1.0", "1.5", "1e3", "\"4\"", "null", "18446744073709551616", "04", "4x", "[4]"}) {
    ExpectCorrupt("{" + U8("a", "0", number, "4") + "}", 4, "data_offsets");
    ExpectCorrupt("{" + U8("a", "0", "4", number) + "}", 4, "shape");
  }
}

TEST(SafetensorsHeaderTest, OffsetsAreExactlyTwo) {
  for (const char* offsets : {"[]", "[0]", "[0,4,4]", "{}", "4"}) {
    ExpectCorrupt(std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)") + offsets + "}}", 4, "data_offsets");
  }
}

TEST(SafetensorsHeaderTest, UnknownDTypeIsNamed) {
  ExpectCorrupt(R"({"a":{"dtype":"Q4_0","shape":[4],"data_offsets":[0,4]}})", 4, "unknown dtype \"Q4_0\"");
}

TEST(SafetensorsHeaderTest, AMissingFieldIsNamed) {
  ExpectCorrupt(R"({"a":{"dtype":"U8","shape":[4]}})", 4, "no data_offsets");
  ExpectCorrupt(R"({"a":{"shape":[4],"data_offsets":[0,4]}})", 4, "no dtype");
}

TEST(SafetensorsHeaderTest, AFieldThatComesTwiceIsRefused) {
  ExpectCorrupt(R"({"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4, "dtype comes twice");
}

TEST(SafetensorsHeaderTest, UnknownFieldsAreIgnored) {
  EXPECT_TRUE(
      ParseJson(R"({"a":{"x":{"y":[1,-2.5e3,null,true,"z"]},"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4).ok());
}

TEST(SafetensorsHeaderTest, UnknownFieldsMustBeValidJsonAllTheSame) {
  for (const char* value : {"[1 2]", "[1}", "{\"y\" 1}", "tru", "nul", "nullx", "1.2.3", "[1,]"}) {
    ExpectCorrupt(std::string(R"({"a":{"x":)") + value + R"(,"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4, "");
  }
}

TEST(SafetensorsHeaderTest, DeepNestingIsRefusedWithoutRecursingIntoIt) {
  for (const char* open : {"[", "{\"a\":"}) {
    std::string json = R"({"a":{"x":)";
    for (int i = 0; i < 1'000'000; ++i) json += open;
    ExpectCorrupt(json, 0, "");
    ExpectCorrupt(json + "}", 0, "");
  }
}

TEST(SafetensorsHeaderTest, MetadataIsStringsOnly) {
  EXPECT_TRUE(ParseJson(R"({"__metadata__":{"format":"pt"}})", 0).ok());
  ExpectCorrupt(R"({"__metadata__":{"steps":1}})", 0, "__metadata__ \"steps\" is not a string");
  ExpectCorrupt(R"({"__metadata__":[]})", 0, "__metadata__ is not an object");
  ExpectCorrupt(R"({"__metadata__":nul})", 0, "__metadata__ is not an object");
  EXPECT_TRUE(ParseJson(R"({"__metadata__":null})", 0).ok());
  ExpectCorrupt(R"({"__metadata__":{},"__metadata__":{}})", 0, "comes twice");
}

TEST(SafetensorsHeaderTest, OnlyWhitespaceMayFollowTheObject) {
  for (const char* tail : {"x", "{}", "}", ",", "\\u0000"}) ExpectCorrupt(std::string("{}") + tail, 0, "");
  ExpectCorrupt(std::string("{}\0", 3), 0, "");
}

TEST(SafetensorsHeaderTest, TheHeaderIsAnObject) {
  for (const char* json : {"", "[]", "null", "1", "\"a\"", "   "}) ExpectCorrupt(json, 0, "");
}

TEST(SafetensorsHeaderTest, NamesWithNulOrTooLongOrHalfASurrogateAreRefused) {
  ExpectCorrupt("{" + U8("a\\u0000b", "0", "4", "4") + "}", 4, "NUL");
  ExpectCorrupt("{" + U8(std::string(4097, 'n'), "0", "4", "4") + "}", 4, "longer than 4096");
  EXPECT_TRUE(ParseJson("{" + U8(std::string(4096, 'n'), "0", "4", "4") + "}", 4).ok());
  ExpectCorrupt("{" + U8("\\udc00", "0", "4", "4") + "}", 4, "");
  ExpectCorrupt("{" + U8("\\ud800", "0", "4", "4") + "}", 4, "");
}

TEST(SafetensorsHeaderTest, ALongNameDoesNotMakeALongMessage) {
  EXPECT_LT(ParseJson("{" + U8(std::string(4000, 'n'), "4", "8", "4") + "}", 8).status().message().size(), 2000u);
}

TEST(SafetensorsHeaderTest, UnalignedTensorsAreAllowed) {
  EXPECT_TRUE(
      ParseJson("{" + U8("a", "0", "1", "1") + R"(,"f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})", 5).ok());
}

TEST(SafetensorsHeaderTest, HugeOffsetsAreTruncationNotOverflow) {
  const auto result =
      ParseJson("{" + U8("a", "0", "1", "1") + "," +
                    R"("b":{"dtype":"U8","shape":[2305843009213693951],"data_offsets":[1,2305843009213693952]}})",
                1);
  EXPECT_EQ(ErrorReason(result.status()), Reason::kCheckpointTruncated) << result.status();
  EXPECT_EQ(ErrorDetails(result.status()).at("key"), "b");
}

std::string Ones(size_t count) {
  std::string ones = "1";
  for (size_t i = 1; i < count; ++i) ones += ",1";
  return ones;
}

TEST(SafetensorsHeaderTest, AShapeOfHighRankIsShownInPart) {
  EXPECT_TRUE(ParseJson("{" + U8("a", "0", "1", Ones(kMaxRank)) + "}", 1).ok());
  ExpectCorrupt("{" + U8("a", "0", "2", Ones(kMaxRank)) + "}", 2, "1, ...] takes 1 bytes");
}

TEST(SafetensorsHeaderTest, AShapeWith65DimensionsIsCorrupt) {
  ExpectCorrupt("{" + U8("a", "0", "1", Ones(65)) + "}", 1, "tensor \"a\": shape has more than 64 dimensions");
}

}  // namespace
}  // namespace keyload
