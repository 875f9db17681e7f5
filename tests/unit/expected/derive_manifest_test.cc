#include "server/expected/derive_manifest.h"

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "tests/unit/expected/expected_case.h"

namespace keyload {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

std::string Llama(std::string_view more) {
  return StrCat(R"({"model_type": "llama", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 6,
      "num_hidden_layers": 1, "num_attention_heads": 2)",
                more.empty() ? "" : ", ", more, "}");
}
std::vector<std::string> KeysOf(const std::string& config) {
  const auto manifest = Derive(config);
  return manifest.ok() ? Describe(**manifest) : std::vector<std::string>{std::string(manifest.status().message())};
}

TEST(DeriveManifest, TakesTheHeadFromTheArchitecture) {
  EXPECT_THAT(KeysOf(Llama("")), Contains("lm_head.weight [9, 8] F32"));
  EXPECT_THAT(KeysOf(Llama(R"("architectures": null)")), Contains("lm_head.weight [9, 8] F32"));
  EXPECT_THAT(KeysOf(Llama(R"("architectures": ["LlamaForSequenceClassification"])")),
              Contains("score.weight [2, 8] F32"));
  EXPECT_THAT(KeysOf(Llama(R"("architectures": ["LlamaForSequenceClassification"], "num_labels": 5)")),
              Contains("score.weight [5, 8] F32"));
  const auto base = KeysOf(Llama(R"("architectures": ["LlamaModel"])"));
  EXPECT_THAT(base, Contains("norm.weight [8] F32"));
  EXPECT_THAT(base, Not(Contains("lm_head.weight [9, 8] F32")));
}
TEST(DeriveManifest, RefusesArchitecturesThatAreNoNames) {
  for (const char* architectures : {R"("LlamaModel")", "[3]", R"([""])", "{}", "1"}) {
    const absl::Status status = Derive(Llama(StrCat("\"architectures\": ", architectures))).status();
    EXPECT_EQ(ErrorReason(status), Reason::kConfigInvalid) << architectures << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("architectures is not a list of names"));
  }
  EXPECT_THAT(KeysOf(Llama(R"("architectures": [])")), Contains("lm_head.weight [9, 8] F32"));
}
TEST(DeriveManifest, TiesOnlyWhereTheConfigDoes) {
  const auto tied = Derive(Llama(R"("tie_word_embeddings": true)"));
  ASSERT_TRUE(tied.ok()) << tied.status();
  ASSERT_EQ((*tied)->tied_groups.size(), 1u);
  EXPECT_EQ((*tied)->tied_groups[0].source, "model.embed_tokens.weight");
  EXPECT_THAT((*tied)->tied_groups[0].targets, ElementsAre("lm_head.weight"));
  EXPECT_THAT((*Derive(Llama("")))->tied_groups, IsEmpty());
  const auto base = Derive(Llama(R"("tie_word_embeddings": true, "architectures": ["LlamaModel"])"));
  ASSERT_TRUE(base.ok()) << base.status();
  EXPECT_THAT((*base)->tied_groups, IsEmpty());
}
TEST(DeriveManifest, TakesTheDTypeByEitherName) {
  EXPECT_THAT(KeysOf(Llama(R"("torch_dtype": "float16")")), Contains("model.norm.weight [8] F16"));
  EXPECT_THAT(KeysOf(Llama(R"("dtype": "torch.bfloat16", "torch_dtype": "float16")")),
              Contains("model.norm.weight [8] BF16"));
  EXPECT_THAT(KeysOf(Llama(R"("dtype": "auto", "torch_dtype": null)")), Contains("model.norm.weight [8] F32"));
  EXPECT_THAT(KeysOf(Llama(R"("torch_dtype": "int7")")),
              ElementsAre(HasSubstr("torch_dtype \"int7\" is no floating dtype")));
  EXPECT_THAT(KeysOf(Llama(R"("torch_dtype": 7)")), ElementsAre(HasSubstr("is no floating dtype")));
}
TEST(DeriveManifest, HasBuffersThatNoCheckpointNeeds) {
  EXPECT_THAT(KeysOf(Llama("")), Contains("model.rotary_emb.inv_freq [2] F32 non_persistent"));
}
TEST(DeriveManifest, IgnoresThePredictionLayersOfDeepSeek) {
  const std::string sizes = R"("vocab_size": 9, "hidden_size": 8, "intermediate_size": 6, "moe_intermediate_size": 4,
      "num_hidden_layers": 4, "num_attention_heads": 2, "n_routed_experts": 2)";
  const auto manifest = Derive(StrCat(R"({"model_type": "deepseek_v3", "num_nextn_predict_layers": 2, )", sizes, "}"));
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_THAT((*manifest)->ignore_unexpected, Contains("(^|\\.)layers\\.4\\."));
  EXPECT_THAT((*manifest)->ignore_unexpected, Contains("(^|\\.)layers\\.5\\."));
  EXPECT_EQ((*manifest)->ignore_unexpected.size(), 3u);
}

void ExpectNotSupported(const std::string& config, std::string_view problem, bool for_model_type = true) {
  const absl::Status status = Derive(config).status();
  EXPECT_EQ(ErrorReason(status), Reason::kConfigNotSupported) << status;
  EXPECT_EQ(ErrorDetails(status).contains("model_type"), for_model_type);
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(problem)));
}

TEST(DeriveManifest, SaysWhatNoTemplateKnows) {
  ExpectNotSupported("{}", "there is no model_type");
  ExpectNotSupported(R"({"model_type": 3})", "there is no model_type");
  ExpectNotSupported(R"({"model_type": "unheard_of"})", "no template for model_type \"unheard_of\"");
  for (const char* name : {"../templates/llama", "/etc/passwd", "quantization/fp8", "a\\u0000b", ".", ""}) {
    ExpectNotSupported(StrCat(R"({"model_type": ")", name, R"("})"), "model_type");
  }
  ExpectNotSupported(Llama(R"("architectures": ["LlavaForAll"])"), "does not know the architecture \"LlavaForAll\"",
                     false);
}
TEST(DeriveManifest, TheFirstDirectoryWithTheFileCounts) {
  TemplateFolder first, second;
  second.Write("toy.toml", "tree = '''\na [2]\n'''");
  const std::string config = R"({"model_type": "toy"})";
  const auto keys = [&] {
    return Describe(**DeriveFrom(config, {StrCat(first.path(), "/absent"), first.path(), second.path()}));
  };
  EXPECT_THAT(keys(), ElementsAre("a [2] F32"));
  first.Write("toy.toml", "tree = '''\nb [3]\n'''");  // counts at once
  EXPECT_THAT(keys(), ElementsAre("b [3] F32"));
}
TEST(DeriveManifest, ATemplateThatIsNoSmallFileIsInvalid) {
  TemplateFolder folder;
  std::filesystem::create_directory(StrCat(folder.path(), "/toy.toml"));
  const auto derive = [&](const char* type) {
    return ErrorReason(DeriveFrom(StrCat(R"({"model_type": ")", type, R"("})"), {folder.path()}).status());
  };
  EXPECT_EQ(derive("toy"), Reason::kTemplateInvalid);
  folder.Write("big.toml", std::string((1 << 20) + 1, '#'));
  EXPECT_EQ(derive("big"), Reason::kTemplateInvalid);
}

}  // namespace
}  // namespace keyload
