#include "client/cli/dtype_words.h"

#include "gtest/gtest.h"

namespace keyload::cli {
namespace {

TEST(DTypeFromWord, TakesWhatPyTorchCallsADType) {
  for (const char* word : {"BF16", "bf16", "bfloat16", "torch.bfloat16", "BFloat16", " bf16 "})
    EXPECT_EQ(DTypeFromWord(word), "BF16") << word;
  for (const char* word : {"F16", "f16", "fp16", "FP16", "float16", "torch.float16", "half", "torch.half"})
    EXPECT_EQ(DTypeFromWord(word), "F16") << word;
  for (const char* word : {"F32", "fp32", "float32", "float", "torch.float32"})
    EXPECT_EQ(DTypeFromWord(word), "F32") << word;
  for (const char* word : {"F64", "fp64", "float64", "double"}) EXPECT_EQ(DTypeFromWord(word), "F64") << word;
}

TEST(DTypeFromWord, LeavesAnythingElseToTheServer) {
  for (const char* word : {"", "auto", "int8", "fp8", "F8_E4M3", "torch.", "bfloat"})
    EXPECT_EQ(DTypeFromWord(word), word);
}

}  // namespace
}  // namespace keyload::cli
