#include "server/audit/audit_config.h"

#include "gmock/gmock.h"
#include "tests/unit/audit/key_set.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::vector<Finding> Audit(const KeySet& keys, std::string_view json) {
  absl::StatusOr<ConfigValue> config = ParseConfigJson(json, "config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  const NumberedLists lists = keys.Lists();
  absl::StatusOr<std::vector<Finding>> findings = AuditConfig(lists, *config, RequestContext());
  EXPECT_TRUE(findings.ok()) << findings.status();
  return *std::move(findings);
}

KeySet Model(int layers) {
  return KeySet().Add("embed.weight", {100, 4}).AddLayers("model.layers", layers).Add("lm_head.weight", {100, 4});
}

constexpr char kConfig[] =
    R"({"architectures": ["NewForCausalLM"], "num_hidden_layers": 7, "vocab_size": 100, "tie_word_embeddings": false})";

TEST(AuditConfig, AWholeModelHasNoFinding) { EXPECT_THAT(Audit(Model(7), kConfig), IsEmpty()); }

TEST(AuditConfig, LayersThatLackAtTheEndAreNamed) {
  const auto findings = Audit(Model(5), kConfig);
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].rule, "layers");
  EXPECT_EQ(findings[0].count, 2u);
  EXPECT_THAT(findings[0].names, ElementsAre("model.layers.5", "model.layers.6"));
  EXPECT_THAT(findings[0].message, HasSubstr("num_hidden_layers 7"));
}

TEST(AuditConfig, MoreLayersAreForFurtherTokens) { EXPECT_THAT(Audit(Model(8), kConfig), IsEmpty()); }

TEST(AuditConfig, LayersThatRunSeveralTimesAreWhole) {
  EXPECT_THAT(Audit(Model(4), R"({"architectures": ["NewForCausalLM"], "num_hidden_layers": 12})"), IsEmpty());
}

TEST(AuditConfig, ExpertsThatLackAreCounted) {
  KeySet keys;
  for (int expert = 0; expert < 6; ++expert) keys.Add(absl::StrCat("layers.0.experts.", expert, ".up.weight"));
  const auto findings = Audit(keys, R"({"architectures": ["NewForCausalLM"], "num_local_experts": 8})");
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].rule, "experts");
  EXPECT_EQ(findings[0].count, 2u);
}

TEST(AuditConfig, AnEmbeddingThatLacksIsNoticed) {
  const auto findings = Audit(KeySet().AddLayers("model.layers", 7), kConfig);
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].rule, "vocabulary");
  EXPECT_THAT(findings[0].message, HasSubstr("vocab_size 100"));
}

TEST(AuditConfig, AHeadThatLacksIsNoticedWhereItIsNotTied) {
  const KeySet keys = KeySet().Add("embed.weight", {100, 4}).AddLayers("model.layers", 7);
  const auto findings = Audit(keys, kConfig);
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_THAT(findings[0].message, HasSubstr("only embed.weight"));
  EXPECT_THAT(Audit(keys, R"({"architectures": ["NewForCausalLM"], "vocab_size": 100})"), IsEmpty());
  EXPECT_THAT(Audit(keys, R"({"architectures": ["NewForCausalLM"], "vocab_size": 100, "tie_word_embeddings": true})"),
              IsEmpty());
}

TEST(AuditConfig, TheTextModelOfALargerOneCounts) {
  const auto findings = Audit(Model(5), R"({"architectures": ["NewForConditionalGeneration"],
                                            "text_config": {"num_hidden_layers": 7, "vocab_size": 100}})");
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].rule, "layers");
}

TEST(AuditConfig, SizesOfOtherArchitecturesMeanOtherThings) {
  EXPECT_THAT(Audit(Model(5), R"({"architectures": ["NewForImageClassification"], "num_hidden_layers": 7})"),
              IsEmpty());
  EXPECT_THAT(Audit(Model(5), R"({"num_hidden_layers": 7})"), IsEmpty());
  EXPECT_THAT(Audit(Model(5), R"({"architectures": "x", "num_hidden_layers": "seven"})"), IsEmpty());
}

}  // namespace
}  // namespace keyload
