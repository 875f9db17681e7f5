#include "server/expected/config_value.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

using testing::HasSubstr;

TEST(ConfigJson, HasEveryKindOfValue) {
  const auto config = ParseConfigJson(
      R"({"whole": 3, "negative": -3, "real": 1.5, "huge": 18446744073709551615, "yes": true, "text": "a\n", "none": null,
          "list": [1, [2]], "object": {"b": 1, "a": 2}})",
      "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(std::get<int64_t>(config->Find("whole")->data), 3);
  EXPECT_EQ(std::get<int64_t>(config->Find("negative")->data), -3);
  EXPECT_EQ(std::get<double>(config->Find("real")->data), 1.5);
  EXPECT_EQ(std::get<double>(config->Find("huge")->data), 0x1p64);
  EXPECT_EQ(std::get<int64_t>(config->Find("yes")->data), 1);
  EXPECT_EQ(*config->Find("text")->text(), "a\n");
  EXPECT_TRUE(config->Find("none")->is_null());
  EXPECT_EQ(config->Find("list")->list()->size(), 2u);
  EXPECT_EQ(std::get<int64_t>(config->Find("object")->Find("a")->data), 2);
  EXPECT_EQ(config->Find("absent"), nullptr);
  EXPECT_EQ(config->Find("whole")->Find("a"), nullptr);
}

void ExpectInvalid(std::string_view json, std::string_view problem) {
  const absl::Status status = ParseConfigJson(json, "DIR/config.json").status();
  EXPECT_EQ(ErrorReason(status), Reason::kConfigInvalid) << json.substr(0, 100);
  EXPECT_THAT(std::string(status.message()), HasSubstr("DIR/config.json: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(problem)));
  EXPECT_EQ(ErrorDetails(status)["file"], "DIR/config.json");
}

TEST(ConfigJson, RefusesWhatIsNotJson) {
  for (const char* json : {"{", "{\"a\": 1,}", "{} {}", "{\"a\": -NaN}", "{\"a\": 1Infinity}", "{\"a\": InfinityNaN}",
                           "{\"a\": Inf}", "{\"a\": 000000000000000000000}", "{\"a\": 1e999}", "{\"a\": \"Infinity}",
                           "{NaN: 1}", "{\"a\": +Infinity}", "{\"a\": \"\\"}) {
    ExpectInvalid(json, "not valid JSON");
  }
  ExpectInvalid("\"\xff\"", "not valid JSON");
  EXPECT_EQ(ParseConfigJson("", "config.json").status().message(), "config.json is empty; fetch it again");
}

TEST(ConfigJson, ReadsWhatPythonWrites) {
  const auto config = ParseConfigJson(
      R"({"limit": [0.0, Infinity], "least":-Infinity, "none": NaN, "text": "NaN \"Infinity 123456789012345678901",
          "long": 1000000000000000019884624838656, "negative": -9223372036854775809, "last": 9223372036854775807})",
      "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(std::get<double>((*config->Find("limit")->list())[1].data), 1e308);
  EXPECT_EQ(std::get<double>(config->Find("least")->data), -1e308);
  EXPECT_TRUE(config->Find("none")->is_null());
  EXPECT_EQ(*config->Find("text")->text(), "NaN \"Infinity 123456789012345678901");
  EXPECT_EQ(std::get<double>(config->Find("long")->data), 1e30);
  EXPECT_EQ(std::get<double>(config->Find("negative")->data), -0x1p63);
  EXPECT_EQ(std::get<int64_t>(config->Find("last")->data), INT64_MAX);
}
TEST(ConfigJson, RefusesADocumentThatIsNoObject) { ExpectInvalid("[1]", "the document is not an object"); }
TEST(ConfigJson, RefusesANameTwice) { ExpectInvalid(R"({"x": {"a": 1, "b": 2, "a": 3}})", "\"a\" comes twice"); }
TEST(ConfigJson, RefusesDeepNesting) {
  ExpectInvalid(StrCat("{\"a\":", std::string(100, '['), std::string(100, ']'), "}"), "nested deeper than 64");
  ExpectInvalid(StrCat("{\"a\":", std::string(100'000, '['), std::string(100'000, ']'), "}"), "");
}

}  // namespace
}  // namespace keyload
