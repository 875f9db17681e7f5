#include "server/base/weight_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace keyload {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string StemOf(const std::string& name, WeightName::Form form) {
  const auto parsed = ParseWeightName(name);
  return parsed && parsed->form == form ? parsed->stem : "(none)";
}
std::vector<std::string> Counting(const std::vector<std::string>& names) {
  const absl::StatusOr<std::vector<WeightSet>> sets = SetsThatCount(*SetsAmong(names, {}), {});
  std::vector<std::string> files;
  for (const WeightSet& set : *sets) files.push_back(set.file);
  return files;
}

TEST(WeightNames, Index) {
  EXPECT_EQ(StemOf("model.safetensors.index.json", WeightName::Form::kIndex), "model");
  EXPECT_EQ(StemOf("model.safetensors.index.fp16.json", WeightName::Form::kIndex), "model.fp16");
  EXPECT_EQ(StemOf("model.fp16.safetensors.index.json", WeightName::Form::kIndex), "model.fp16");
  for (const char* name : {"pytorch_model.bin.index.json", "config.json", "model.safetensors.index..json", ""}) {
    EXPECT_FALSE(ParseWeightName(name).has_value()) << name;
  }
}

TEST(WeightNames, Part) {
  for (const char* name : {"x.fp16-00001-of-00002.safetensors", "x-00001-of-00002.fp16.safetensors"}) {
    EXPECT_EQ(StemOf(name, WeightName::Form::kPart), "x.fp16") << name;
  }
  EXPECT_EQ(StemOf("model.safetensors-00001-of-00039.safetensors", WeightName::Form::kPart), "model");
  EXPECT_EQ(StemOf("model-00001-of-00001.safetensors", WeightName::Form::kSingle), "model-00001-of-00001");
  EXPECT_EQ(StemOf("best-of-2.safetensors", WeightName::Form::kSingle), "best-of-2");
}

TEST(WeightNames, VariantWords) {
  for (const char* word : {"fp16", "bf16", "non_ema", "int8", "v", "vae"}) EXPECT_TRUE(IsVariantWord(word)) << word;
  for (const char* word : {"1", "9vae", "v1", "V2", "", "a-b", "a b"}) EXPECT_FALSE(IsVariantWord(word)) << word;
}

TEST(WeightNames, AnIndexCountsBeforeSingleFilesAndHasItsParts) {
  EXPECT_THAT(Counting({"a.safetensors", "x-00001-of-00002.safetensors", "x.safetensors.index.json"}),
              ElementsAre("x.safetensors.index.json"));
  EXPECT_THAT(Counting({"x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors"}),
              ElementsAre("x-00001-of-00002.safetensors"));
  EXPECT_THAT(Counting({"config.json"}), IsEmpty());
}

TEST(WeightNames, VariantsCountOnlyAlone) {
  EXPECT_THAT(Counting({"u.fp16.safetensors", "u.non_ema.fp16.safetensors", "u.safetensors"}),
              ElementsAre("u.safetensors"));
  EXPECT_THAT(Counting({"u.fp16.safetensors"}), ElementsAre("u.fp16.safetensors"));
  EXPECT_THAT(Counting({"u-v0.9.1.safetensors", "u-v0.9.safetensors"}),
              ElementsAre("u-v0.9.1.safetensors", "u-v0.9.safetensors"));
}

}  // namespace
}  // namespace keyload
