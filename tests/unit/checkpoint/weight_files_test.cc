#include "server/checkpoint/weight_files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

using ::testing::HasSubstr;

class WeightFilesTest : public ::testing::Test {
 protected:
  WeightFilesTest() : roots_(ModelRoots::Create({dir_.path()}).value()), directory_(roots_.Open(dir_.path()).value()) {}

  absl::StatusOr<WeightFile> Find(const RequestContext& context = {}, const std::string& weights = "") {
    return FindWeights(roots_, directory_, weights, false, context);
  }
  // Makes empty files and finds the weights among them.
  std::string FindAmong(const std::vector<std::string>& names) {
    for (const std::string& name : names) WriteFile(dir_.File(name), "");
    const absl::StatusOr<WeightFile> file = Find();
    for (const std::string& name : names) std::filesystem::remove(dir_.File(name));
    return file.ok() ? file->name : std::string(file.status().message());
  }

  TempDir dir_;
  const ModelRoots roots_;
  const OpenedPath directory_;
};

TEST_F(WeightFilesTest, VariantsOfOneFileAreNoFurtherSets) {
  EXPECT_EQ(FindAmong({"x.safetensors", "x.fp16.safetensors"}), "x.safetensors");
  EXPECT_EQ(FindAmong({"x.safetensors", "x.a.safetensors", "x.a.b.safetensors", "x.b.safetensors"}), "x.safetensors");
  EXPECT_EQ(FindAmong({"x.a.safetensors", "x.a.b.safetensors", "x.a.b.c.safetensors"}), "x.a.safetensors");
  EXPECT_EQ(FindAmong({"x.safetensors", "x.safetensors.index.fp16.json", "x.fp16-00001-of-00002.safetensors",
                       "x-00002-of-00002.fp16.safetensors"}),
            "x.safetensors");
  EXPECT_EQ(FindAmong({"x.safetensors.safetensors", "x.safetensors"}), "x.safetensors");
  EXPECT_EQ(FindAmong({"x.safetensors.index.json", "x.fp16.safetensors.index.json"}), "x.safetensors.index.json");
}

TEST_F(WeightFilesTest, FilesThatOnlyLookAlikeAreSetsOfTheirOwn) {
  EXPECT_THAT(FindAmong({"x.safetensors", "xy.safetensors"}), HasSubstr("2 sets"));
  EXPECT_THAT(FindAmong({"x.safetensors", "x-1.safetensors", "x.a.safetensors"}), HasSubstr("2 sets"));
  EXPECT_THAT(FindAmong({"a.safetensors", "a.b.safetensors", "a-c.safetensors", "b.a.safetensors"}),
              HasSubstr("3 sets of weights (a-c.safetensors, a.safetensors, b.a.safetensors)"));
}

TEST_F(WeightFilesTest, ASetThatIsThereOnlyAsAVariantIsTaken) {
  EXPECT_EQ(FindAmong({"x.safetensors.index.fp16.json", "x.fp16-00001-of-00002.safetensors",
                       "x.fp16-00002-of-00002.safetensors"}),
            "x.safetensors.index.fp16.json");
  EXPECT_EQ(FindAmong({"model.bf16.safetensors"}), "model.bf16.safetensors");
  EXPECT_THAT(FindAmong({"model.bf16.safetensors", "model.fp16.safetensors"}), HasSubstr("2 sets"));
}

TEST_F(WeightFilesTest, AVersionIsNoVariant) {
  EXPECT_THAT(FindAmong({"m-v0.9.safetensors", "m-v0.9.1.safetensors"}), HasSubstr("2 sets"));
  EXPECT_THAT(FindAmong({"m.safetensors", "m.v2.safetensors"}), HasSubstr("2 sets"));
  EXPECT_THAT(FindAmong({"m-1.safetensors", "m-1.0-beta.safetensors"}), HasSubstr("2 sets"));
}

TEST_F(WeightFilesTest, PartsWithoutTheirIndexAreNoSet) {
  EXPECT_THAT(
      FindAmong({"model.safetensors-00001-of-00039.safetensors", "model.safetensors-00002-of-00039.safetensors"}),
      HasSubstr("no index file"));
  EXPECT_THAT(FindAmong({"x.safetensors", "y-00001-of-00002.safetensors"}), HasSubstr("2 sets"));
}

TEST_F(WeightFilesTest, WhatIsThereInsteadOfWeightsIsNamed) {
  EXPECT_THAT(FindAmong({"model.Q4.gguf", "config.json"}), HasSubstr("model.Q4.gguf is a GGUF file"));
  EXPECT_THAT(FindAmong({"model.safetensors.part-aa", "model.safetensors.part-ab"}),
              HasSubstr("piece of a split file"));
  EXPECT_THAT(FindAmong({"MODEL.SAFETENSORS", "model.gguf"}), HasSubstr("MODEL.SAFETENSORS is named in capital"));
  dir_.MakeDir("onnx");
  EXPECT_THAT(FindAmong({"onnx/model.onnx", "tokenizer.json"}), HasSubstr("onnx/model.onnx is an ONNX model"));
  dir_.MakeDir("models--org--name");
  EXPECT_THAT(FindAmong({}), HasSubstr("such as " + dir_.File("models--org--name")));
}

TEST_F(WeightFilesTest, PicklesThatAreNewerAreMentioned) {
  WriteFile(dir_.File("model.safetensors"), "");
  WriteFile(dir_.File("pytorch_model.bin"), "");
  const absl::StatusOr<WeightFile> file = Find();
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(NewerPickle(directory_, *file), "");
  const auto written = std::filesystem::last_write_time(dir_.File("model.safetensors"));
  std::filesystem::last_write_time(dir_.File("pytorch_model.bin"), written + std::chrono::hours(1));
  EXPECT_THAT(NewerPickle(directory_, *file), HasSubstr("pytorch_model.bin is newer than model.safetensors"));
  std::filesystem::last_write_time(dir_.File("pytorch_model.bin"), written - std::chrono::hours(1));
  EXPECT_EQ(NewerPickle(directory_, *file), "");
}

TEST_F(WeightFilesTest, ACancelledRequestEndsInTheMiddleOfTheEntries) {
  for (int i = 0; i < 200; ++i) WriteFile(dir_.File(std::to_string(i) + ".safetensors"), "");
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ErrorReason(Find({.stop = stop.get_token()}).status()), Reason::kLoadCancelled);
  EXPECT_THAT(std::string(Find().status().message()), HasSubstr("200 sets"));
}

// With a comparison of each name with every other one this takes minutes, and the deadline ends it.
TEST_F(WeightFilesTest, FiftyThousandNamesTakeNoLongerThanTheyTakeToList) {
  for (int i = 0; i < 50'000; ++i) {
    const int fd = ::open(dir_.File(std::to_string(i) + ".safetensors").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    ASSERT_GE(fd, 0);
    ::close(fd);
  }
  EXPECT_THAT(std::string(Find({.deadline = Deadline::After(absl::Seconds(60))}).status().message()),
              HasSubstr("50000 sets"));
}

}  // namespace
}  // namespace keyload
