// The cases of the safetensors crate's own tests, named as there.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "tests/unit/checkpoint/header_parsing.h"

namespace keyload {
namespace {

using ::testing::HasSubstr;

const std::string kTest = R"({"test":{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]}})";

#define EXPECT_REFUSED(result, reason, text)                               \
  do {                                                                     \
    const auto& refused = (result);                                        \
    ASSERT_FALSE(refused.ok());                                            \
    EXPECT_EQ(ErrorReason(refused.status()), (reason));                    \
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(text)); \
  } while (false)

TEST(SafetensorsConformance, test_deserialization) {
  auto header = ParseJson(kTest, 16);
  ASSERT_TRUE(header.ok()) << header.status();
  ASSERT_EQ(header->tensors.size(), 1u);
  const StoredTensor& tensor = header->tensors[0];
  EXPECT_EQ(tensor.name, "test");
  EXPECT_EQ(tensor.dtype, DType::kI32);
  EXPECT_EQ(tensor.shape, (Shape{2, 2}));
  EXPECT_EQ(tensor.offset, 8 + kTest.size());
  EXPECT_EQ(tensor.bytes, 16u);
}

TEST(SafetensorsConformance, test_empty) { EXPECT_TRUE(ParseJson("{}      ", 0).ok()); }

TEST(SafetensorsConformance, test_empty_shapes_allowed) {
  EXPECT_TRUE(ParseJson(R"({"test":{"dtype":"I32","shape":[],"data_offsets":[0,4]}})", 4).ok());
}

TEST(SafetensorsConformance, test_zero_sized_tensor) {
  auto header = ParseJson(R"({"test":{"dtype":"I32","shape":[2,0],"data_offsets":[0, 0]}})", 0);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->tensors[0].bytes, 0u);
}

TEST(SafetensorsConformance, test_whitespace_padded_header) { EXPECT_TRUE(ParseJson("{}\r \t\n", 0).ok()); }

TEST(SafetensorsConformance, test_whitespace_leading_header) { EXPECT_TRUE(ParseJson("\t\n{}\r ", 0).ok()); }

TEST(SafetensorsConformance, test_metadata_incomplete_buffer_trailing) {
  auto result =
      ParseFile(LengthBytes(kTest.size()) + kTest + std::string(16, '\0') + "extra_bogus_data_for_polyglot_file");
  EXPECT_REFUSED(result, Reason::kCheckpointCorrupt, "34 bytes after the last tensor");
  EXPECT_EQ(ErrorDetails(result.status()).at("offset"), std::to_string(8 + kTest.size() + 16));
}

TEST(SafetensorsConformance, test_metadata_incomplete_buffer_missing) {
  EXPECT_REFUSED(ParseJson(kTest, 14), Reason::kCheckpointTruncated, "lacks the last 2; tensor \"test\"");
}

TEST(SafetensorsConformance, test_header_too_large) {
  EXPECT_REFUSED(ParseFile(std::string("\x3c\0\0\0\0\xff\xff\xff", 8) + kTest), Reason::kCheckpointCorrupt,
                 "first 8 bytes");
}

TEST(SafetensorsConformance, test_header_too_small) {
  EXPECT_REFUSED(ParseFile(""), Reason::kCheckpointTruncated, "0 bytes");
}

TEST(SafetensorsConformance, test_invalid_header_length) {
  EXPECT_REFUSED(ParseFile(LengthBytes(60)), Reason::kCheckpointTruncated, "ends inside its header");
}

TEST(SafetensorsConformance, test_invalid_header_non_utf8) {
  EXPECT_REFUSED(ParseJson("\xff", 0), Reason::kCheckpointCorrupt, "UTF-8");
}

TEST(SafetensorsConformance, test_invalid_header_not_json) {
  EXPECT_REFUSED(ParseJson("{", 0), Reason::kCheckpointCorrupt, "not valid");
}

TEST(SafetensorsConformance, test_json_attack) {
  std::string json = "{";
  for (int i = 0; i < 10; ++i) {
    json += (i ? ",\"weight_" : "\"weight_") + std::to_string(i) +
            R"(":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]})";
  }
  EXPECT_REFUSED(ParseJson(json + "}", 16), Reason::kCheckpointCorrupt, "overlaps tensor \"weight_0\"");
}

TEST(SafetensorsConformance, test_invalid_info) {
  EXPECT_REFUSED(ParseJson(R"({"test":{"dtype":"I32","shape":[2,2],"data_offsets":[0,4]}})", 4),
                 Reason::kCheckpointCorrupt, "I32 [2, 2] takes 16 bytes, data_offsets span 4");
}

TEST(SafetensorsConformance, test_validation_overflow) {
  for (const char* shape : {"[2,18446744073709551614]", "[2,9223372036854775807]"}) {
    EXPECT_REFUSED(
        ParseJson(std::string(R"({"test":{"dtype":"I32","shape":)") + shape + R"(,"data_offsets":[0,16]}})", 16),
        Reason::kCheckpointCorrupt, "larger than 64 bits");
  }
}

TEST(SafetensorsConformance, test_fp4) {
  EXPECT_TRUE(ParseJson(R"({"t":{"dtype":"F4","shape":[1,2],"data_offsets":[0,1]}})", 1).ok());
}

TEST(SafetensorsConformance, test_fp4_misaligned) {
  EXPECT_REFUSED(ParseJson(R"({"t":{"dtype":"F4","shape":[1,3],"data_offsets":[0,2]}})", 2), Reason::kCheckpointCorrupt,
                 "whole bytes");
}

TEST(SafetensorsConformance, test_fp4_invalid) {
  EXPECT_REFUSED(ParseJson(R"({"t":{"dtype":"F4","shape":[1,2],"data_offsets":[0,2]}})", 2), Reason::kCheckpointCorrupt,
                 "takes 1 bytes");
}

TEST(SafetensorsConformance, test_invalid_header_size) {
  EXPECT_TRUE(ParseHeaderLength(LengthBytes(100'000'000), 200'000'000, "x").ok());
  EXPECT_REFUSED(ParseHeaderLength(LengthBytes(100'000'001), 200'000'000, "x"), Reason::kCheckpointCorrupt,
                 "100000001");
  EXPECT_REFUSED(ParseHeaderLength(LengthBytes(uint64_t{1} << 63), 200'000'000, "x"), Reason::kCheckpointCorrupt,
                 "00 00 00 00 00 00 00 80");
}

}  // namespace
}  // namespace keyload
