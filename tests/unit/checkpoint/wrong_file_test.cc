#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "server/base/error.h"
#include "server/checkpoint/checkpoint_index.h"
#include "tests/support/checkpoint_builder.h"
#include "tests/unit/checkpoint/opening_test.h"

namespace keyload {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using namespace std::string_literals;

class WrongFileTest : public OpeningTest {};

constexpr char kPointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 4202889352\n";

TEST_F(WrongFileTest, WeightsAreSomethingElse) {
  const std::pair<std::string, std::string> files[] = {
      {kPointer, "`git lfs pull`"},
      {"<!DOCTYPE html><html><title>504</title>", "an HTML page"},
      {"Invalid username or password.", "plain text (\"Invalid username or password.\")"},
      {"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03 and more"s, "compressed with gzip"},
      {std::string(5000, '\0'), "zero bytes"},
      {"", "is empty"},
      {"PK\x03\x04\x14\x00\x08\x08pytorch"s, "a zip archive"}};
  for (const auto& [content, said] : files) {
    WriteFile(dir_.File("model.safetensors"), content);
    EXPECT_THAT(Refusal(), HasSubstr(said));
    EXPECT_THAT(Refusal(), Not(HasSubstr("header length")));
  }
}

// 2.3e18 is what the first letters of a text are as a number.
TEST_F(WrongFileTest, NoMessageNamesALengthThatIsNone) {
  WriteFile(dir_.File("model.safetensors"), "\xc3\x28\x01\x7f\x99\x98\x97\x96 nothing that is known");
  EXPECT_THAT(Refusal(), HasSubstr("its first 8 bytes (c3 28 01 7f 99 98 97 96) are no length of a header"));
}

TEST_F(WrongFileTest, AnIndexIsSomethingElse) {
  for (const auto& [content, said] : {std::pair<std::string, std::string>{kPointer, "`git lfs pull`"},
                                      {"{\"error\": \"Repository not found\"}", "an error message in JSON"},
                                      {"\xff\xfe{\x00"s, "UTF-16 text; save it as UTF-8"},
                                      {"Entry not found", "plain text"}}) {
    WriteFile(dir_.File("model.safetensors.index.json"), content);
    EXPECT_THAT(Refusal(), HasSubstr(said));
  }
  WriteFile(dir_.File("model.safetensors.index.json"), "{\"weight_map\": 3}");
  EXPECT_THAT(Refusal(), HasSubstr("weight_map is not an object"));
}

TEST_F(WrongFileTest, AnIndexWithAByteOrderMarkAndCarriageReturnsIsRead) {
  WriteSafetensors(dir_.File("s.safetensors"), {Tensor("a")});
  WriteFile(dir_.File("model.safetensors.index.json"),
            "\xEF\xBB\xBF{\r\n  \"weight_map\": {\r\n    \"a\": \"s.safetensors\"\r\n  }\r\n}\r\n");
  const Opened opened = Open();
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->Find("a"), 0);
}

TEST_F(WrongFileTest, AllShardsThatAreSomethingElseAreNamed) {
  const auto files = WriteShardedCheckpoint(dir_.path(), {{Tensor("a")}, {Tensor("b")}, {Tensor("c")}});
  WriteFile(dir_.File(files[0]), kPointer);
  WriteFile(dir_.File(files[2]), kPointer);
  EXPECT_THAT(Refusal(), HasSubstr("2 of 3 shards are no safetensors: " + files[0] + " is a Git LFS pointer"));
  EXPECT_THAT(Refusal(), HasSubstr(files[2] + " is a Git LFS pointer"));
  EXPECT_EQ(ErrorDetails(Open().status())["found"], "git_lfs_pointer");
}

TEST_F(WrongFileTest, AFileOfAnotherFormatAsThePath) {
  path_ = dir_.File("weights.safetensors.incomplete");
  WriteFile(path_, "x");
  EXPECT_THAT(Refusal(), HasSubstr("an unfinished download"));
  path_ = dir_.File("weights");
  WriteFile(path_, "GGUF\x03\x00\x00\x00"s);
  EXPECT_THAT(Refusal(), HasSubstr("is a GGUF file"));
}

}  // namespace
}  // namespace keyload
