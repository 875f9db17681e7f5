#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/expected/module_names.h"
#include "tests/unit/expected/expected_case.h"

namespace keyload {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsSupersetOf;
using testing::Not;

// A Llama or another decoder of one layer, with sizes that no block divides.
std::string Config(std::string_view quantization, std::string_view type = "llama", std::string_view more = "") {
  return StrCat(R"({"model_type": ")", type, R"(", "torch_dtype": "bfloat16", "vocab_size": 96, "hidden_size": 128,
      "intermediate_size": 160, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, )",
                more, R"("quantization_config": )", quantization, "}");
}

// The keys below `module`, without that and a dot.
std::vector<std::string> Below(std::string_view module, const std::string& config) {
  const auto manifest = Derive(config);
  if (!manifest.ok()) return {std::string(manifest.status().message())};
  std::vector<std::string> keys;
  for (const std::string& key : Describe(**manifest)) {
    if (key.starts_with(StrCat(module, "."))) keys.push_back(key.substr(module.size() + 1));
  }
  return keys;
}

constexpr std::string_view kUp = "model.layers.0.mlp.up_proj";
constexpr std::string_view kKey = "model.layers.0.self_attn.k_proj";

TEST(Quantization, NullIsNone) { EXPECT_THAT(Below(kUp, Config("null")), ElementsAre("weight [160, 128] BF16")); }

TEST(Quantization, Fp8HasAScaleForEachBlock) {
  const std::string config = Config(R"({"quant_method": "fp8", "weight_block_size": [128, 96]})");
  EXPECT_THAT(Below(kUp, config), ElementsAre("weight [160, 128] F8_E4M3", "weight_scale_inv [2, 2] F32"));
  EXPECT_THAT(Below("lm_head", config), ElementsAre("weight [96, 128] BF16"));
  EXPECT_THAT(Below("model.norm", config), ElementsAre("weight [128] BF16"));
  EXPECT_THAT(Below("model.embed_tokens", config), ElementsAre("weight [96, 128] BF16"));
}
TEST(Quantization, Fp8KeepsBiasesAndMayHaveOneScale) {
  EXPECT_THAT(
      Below(kKey, Config(R"({"quant_method": "fp8", "activation_scheme": "static"})", "qwen2")),
      ElementsAre("weight [64, 128] F8_E4M3", "weight_scale_inv [] F32", "activation_scale [] F32", "bias [64] BF16"));
}
TEST(Quantization, KeptModulesAreNamedWholeOrInPart) {
  const std::string config = Config(R"({"quant_method": "fp8", "weight_block_size": [128, 128],
      "modules_to_not_convert": ["mlp", "model.layers.0.self_attn.q_proj", "k"]})");
  EXPECT_THAT(Below(kUp, config), ElementsAre("weight [160, 128] BF16"));
  EXPECT_THAT(Below("model.layers.0.self_attn.q_proj", config), ElementsAre("weight [128, 128] BF16"));
  EXPECT_THAT(Below(kKey, config), Contains("weight_scale_inv [1, 1] F32"));
}

// Names and order as in the state dict of transformers 5.24, packed as openai/gpt-oss is published.
TEST(Quantization, TheExpertsOfGptOssArePackedOrNot) {
  const auto config = [](std::string_view quantization) {
    return StrCat(R"({"model_type": "gpt_oss", "torch_dtype": "bfloat16", "vocab_size": 96, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "num_local_experts": 4)",
                  quantization, "}");
  };
  EXPECT_THAT(Below("model.layers.2.mlp", config("")),
              ElementsAre("router.weight [4, 64] BF16", "router.bias [4] BF16",
                          "experts.gate_up_proj [4, 64, 192] BF16", "experts.gate_up_proj_bias [4, 192] BF16",
                          "experts.down_proj [4, 96, 64] BF16", "experts.down_proj_bias [4, 64] BF16"));
  EXPECT_THAT(Below("model.layers.0.mlp.experts", config(R"(, "quantization_config": {"quant_method": "mxfp4",
                    "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]})")),
              ElementsAre("gate_up_proj_blocks [4, 192, 2, 16] U8", "gate_up_proj_scales [4, 192, 2] U8",
                          "gate_up_proj_bias [4, 192] BF16", "down_proj_blocks [4, 64, 3, 16] U8",
                          "down_proj_scales [4, 64, 3] U8", "down_proj_bias [4, 64] BF16"));
  EXPECT_EQ((*Derive(config("")))->tensors.size(), 55u);  // 54 and the rotary embedding's buffer, which is not stored
}

TEST(Quantization, AwqPacksOutputs) {
  const std::string config = Config(
      R"({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "modules_to_not_convert": null})",
      "qwen2");
  EXPECT_THAT(Below(kKey, config),
              ElementsAre("qweight [128, 8] I32", "qzeros [4, 8] I32", "scales [4, 64] F16", "bias [64] BF16"));
  EXPECT_THAT(Below("lm_head", config), ElementsAre("weight [96, 128] BF16"));
  EXPECT_THAT(Below(kKey, Config(R"({"quant_method": "awq", "group_size": -1})")),
              ElementsAre("qweight [128, 8] I32", "qzeros [1, 8] I32", "scales [1, 64] F16"));
  EXPECT_THAT(Below(kKey, Config(R"({"quant_method": "awq", "version": "GEMM"})")), Contains("scales [1, 64] F16"));
}
TEST(Quantization, GptqPacksInputs) {
  const std::string config = Config(R"({"quant_method": "gptq", "bits": 8, "group_size": 48})");
  EXPECT_THAT(Below(kUp, config),
              ElementsAre("qweight [32, 160] I32", "qzeros [3, 40] I32", "scales [3, 160] F16", "g_idx [128] I32"));
  EXPECT_THAT(Below("lm_head", config), ElementsAre("weight [96, 128] BF16"));
}
TEST(Quantization, GptqLeavesWhatChoosesExperts) {
  const std::string config = Config(R"({"quant_method": "gptq", "bits": 4})", "mixtral", R"("num_local_experts": 2, )");
  EXPECT_THAT(Below("model.layers.0.block_sparse_moe.gate", config), ElementsAre("weight [2, 128] BF16"));
  EXPECT_THAT(Below("model.layers.0.block_sparse_moe.experts.1.w1", config), Contains("g_idx [128] I32"));
}

std::string CompressedTensors(std::string_view format, std::string_view weights, std::string_view more = "") {
  return StrCat(
      R"({"quant_method": "compressed-tensors", "format": ")", format,
      R"(", "ignore": ["lm_head", "re:.*self_attn\\.[qv]_proj"], "config_groups": {"group_0": {"targets": ["Linear"],)",
      more, R"("weights": )", weights, "}}}");
}

TEST(Quantization, CompressedTensorsPacksIntegers) {
  const std::string config = Config(CompressedTensors(
      "pack-quantized", R"({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 48, "symmetric": true})"));
  EXPECT_THAT(Below(kUp, config),
              ElementsAre("weight_packed [160, 16] I32", "weight_scale [160, 3] BF16", "weight_shape [2] I64"));
  EXPECT_THAT(Below("lm_head", config), ElementsAre("weight [96, 128] BF16"));
  EXPECT_THAT(Below("model.layers.0.self_attn.q_proj", config), ElementsAre("weight [128, 128] BF16"));
  EXPECT_THAT(Below(kKey, config), Contains("weight_packed [64, 16] I32"));
}
TEST(Quantization, CompressedTensorsHasZeroPointsAndOrder) {
  EXPECT_THAT(Below(kUp, Config(CompressedTensors("pack-quantized", R"({"num_bits": 4, "strategy": "group",
                  "group_size": 64, "symmetric": false, "actorder": "group"})"))),
              ElementsAre("weight_packed [160, 16] I32", "weight_scale [160, 2] BF16", "weight_zero_point [20, 2] I32",
                          "weight_g_idx [128] I32", "weight_shape [2] I64"));
}
TEST(Quantization, CompressedTensorsKeepsFloats) {
  EXPECT_THAT(Below(kUp, Config(CompressedTensors("float-quantized",
                                                  R"({"num_bits": 8, "type": "float", "strategy": "channel"})",
                                                  R"("input_activations": {"dynamic": true},)"))),
              ElementsAre("weight [160, 128] F8_E4M3", "weight_scale [160, 1] BF16"));
  EXPECT_THAT(Below(kUp, Config(CompressedTensors("float-quantized",
                                                  R"({"num_bits": 8, "type": "float", "strategy": "tensor"})",
                                                  R"("input_activations": {"dynamic": false},)"))),
              ElementsAre("weight [160, 128] F8_E4M3", "weight_scale [1] BF16", "input_scale [1] BF16"));
  EXPECT_THAT(Below(kUp, Config(CompressedTensors("float-quantized", R"({"num_bits": 8, "type": "float",
                  "strategy": "block", "block_structure": [128, 96]})"))),
              ElementsAre("weight [160, 128] F8_E4M3", "weight_scale [2, 2] BF16"));
}
TEST(Quantization, CompressedTensorsMayNameItsTargets) {
  const std::string config =
      Config(R"({"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups":
      {"group_0": {"targets": ["re:.*mlp\\."], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}}})");
  EXPECT_THAT(Below(kUp, config), ElementsAre("weight [160, 128] I8", "weight_scale [160, 1] BF16"));
  EXPECT_THAT(Below(kKey, config), ElementsAre("weight [64, 128] BF16"));
}

TEST(Quantization, CompressedTensorsMayGiveTheirGroupAnyName) {
  const std::string config =
      Config(R"({"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups":
      {"W8A8": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}}})");
  EXPECT_THAT(Below(kUp, config), ElementsAre("weight [160, 128] I8", "weight_scale [160, 1] BF16"));
}

TEST(Quantization, WhatATemplateDoesNotKnowIsNotSupported) {
  for (
      const char* quantization :
      {R"({"quant_method": "other"})", R"({"load_in_4bit": true})", R"({"quant_method": "../fp8"})",
       R"({"quant_method": "awq", "version": "gemv"})", R"({"quant_method": "gptq", "bits": 4, "dynamic": {"x": 1}})",
       R"({"quant_method": "gptq", "bits": 4, "lm_head": true})",
       R"({"quant_method": "fp8", "weight_block_size": [128]})",
       R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {"targets": []}, "group_1": {}}})",
       R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"a": {"targets": []}, "b": {}}})"}) {
    const absl::Status status = Derive(Config(quantization)).status();
    EXPECT_EQ(ErrorReason(status), Reason::kConfigNotSupported) << quantization << ": " << status;
    EXPECT_FALSE(ErrorDetails(status).contains("model_type")) << status;
  }
}
TEST(Quantization, WrongValuesAreInvalid) {
  for (const char* quantization :
       {R"("fp8")", "[1]", "4", R"({"quant_method": "gptq"})", R"({"quant_method": "gptq", "bits": "4"})",
        R"({"quant_method": "fp8", "weight_block_size": [128, 0]})",
        R"({"quant_method": "fp8", "modules_to_not_convert": "x"})",
        R"({"quant_method": "fp8", "modules_to_not_convert": [1]})",
        R"({"quant_method": "fp8", "modules_to_not_convert": ["re:("]})"}) {
    const absl::Status status = Derive(Config(quantization)).status();
    EXPECT_EQ(ErrorReason(status), Reason::kConfigInvalid) << quantization << ": " << status;
  }
}
TEST(Quantization, ATemplateMayNotTakeTheNamesOfALayersSizes) {
  TemplateFolder folder;
  folder.Write("quantization/q.toml", "tree = ''\n[config]\nrows = 1\n");
  const absl::Status status =
      folder.Derive("tree = ''", R"({"model_type": "toy", "quantization_config": {"quant_method": "q"}})").status();
  EXPECT_EQ(ErrorReason(status), Reason::kTemplateInvalid);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rows is the layer's"));
}

TEST(ModuleNames, MatchWholeComponentsAndPatternsFromTheStart) {
  const auto names = ModuleNames::Create({"lm_head", "mlp.gate", "a.b.c", "re:visual\\."});
  ASSERT_TRUE(names.ok()) << names.status();
  for (const char* name : {"lm_head", "model.lm_head", "layers.0.mlp.gate", "mlp.gate.x", "x.a.b.c", "visual.x"}) {
    EXPECT_TRUE(names->Matches(name)) << name;
  }
  for (const char* name : {"lm_head2", "mlp.gate_proj", "mlp", "a.b", "xa.b.c", "x.visual.x", ""}) {
    EXPECT_FALSE(names->Matches(name)) << name;
  }
  EXPECT_FALSE(ModuleNames::Create({})->Matches("a"));
}
TEST(ModuleNames, BoundTheirPatterns) {
  EXPECT_TRUE(ModuleNames::Create(std::vector<std::string>(50, "re:.*self_attn\\.[qv]_proj")).ok());
  const absl::Status status = ModuleNames::Create(std::vector<std::string>(9, "re:((x?.){30}){30}")).status();
  EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
  EXPECT_THAT(std::string(status.message()), HasSubstr("too large together"));
}

}  // namespace
}  // namespace keyload
