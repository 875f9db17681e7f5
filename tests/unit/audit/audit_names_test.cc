#include "server/audit/audit_names.h"

#include "gmock/gmock.h"
#include "tests/unit/audit/key_set.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::vector<Finding> Audit(const KeySet& keys) {
  const NumberedLists lists = keys.Lists();
  absl::StatusOr<std::vector<Finding>> findings = AuditNames(lists, RequestContext());
  EXPECT_TRUE(findings.ok()) << findings.status();
  return *std::move(findings);
}

auto Is(std::string name) {
  return [name = std::move(name)](const std::string& other) { return other == name; };
}
auto IsBelow(std::string module) {
  return [module = module + "."](const std::string& other) { return other.starts_with(module); };
}

TEST(AuditNames, AWholeModelHasNoFinding) {
  EXPECT_THAT(Audit(KeySet().Add("embed.weight").AddLayers("model.layers", 12).Add("lm_head.weight")), IsEmpty());
  EXPECT_THAT(Audit(KeySet()), IsEmpty());
}

TEST(AuditNames, AKeyThatALayerLacksIsNamed) {
  const auto findings = Audit(KeySet().AddLayers("model.layers", 12, Is("model.layers.5.attn.q.weight")));
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].rule, "alike");
  EXPECT_EQ(findings[0].count, 1u);
  EXPECT_TRUE(findings[0].lacks);
  EXPECT_THAT(findings[0].names, ElementsAre("model.layers.5.attn.q.weight"));
  EXPECT_THAT(findings[0].message, HasSubstr("1 key seems to lack"));
}

TEST(AuditNames, AModuleThatTheSecondOfTwoLayersLacksIsNamedByItsKeys) {
  const auto findings = Audit(KeySet().AddLayers("h", 2, IsBelow("h.1.mlp.down")));
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_THAT(findings[0].names, ElementsAre("h.1.mlp.down.bias", "h.1.mlp.down.weight"));
}

TEST(AuditNames, AnExpertIsNamedOnceThoughTwoListsLackIt) {
  KeySet keys;
  for (int layer = 0; layer < 4; ++layer) {
    for (int expert = 0; expert < 8; ++expert) {
      for (const char* rest : {"gate.weight", "up.weight", "down.weight"}) {
        if (layer == 2 && expert == 3 && rest == std::string("up.weight")) continue;
        keys.Add(absl::StrCat("layers.", layer, ".mlp.experts.", expert, ".", rest));
      }
    }
  }
  const auto findings = Audit(keys);
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].count, 1u);
  EXPECT_THAT(findings[0].names, ElementsAre("layers.2.mlp.experts.3.up.weight"));
}

TEST(AuditNames, ALayerThatIsLeftOutIsAGap) {
  for (const int layer : {0, 7}) {
    const std::string name = absl::StrCat("model.layers.", layer);
    const auto findings = Audit(KeySet().AddLayers("model.layers", 12, IsBelow(name)));
    ASSERT_THAT(findings, SizeIs(1)) << layer;
    EXPECT_EQ(findings[0].rule, "gap");
    EXPECT_THAT(findings[0].names, ElementsAre(name));
  }
}

TEST(AuditNames, ActivationsBetweenLayersAreNoGap) {
  KeySet keys;
  for (const int number : {0, 2, 4, 6, 8}) {
    keys.Add(absl::StrCat("head.", number, ".weight")).Add(absl::StrCat("head.", number, ".bias"));
  }
  EXPECT_THAT(Audit(keys), IsEmpty());
}

TEST(AuditNames, LayersOfAnotherKindAreNoDamage) {
  // Every fourth layer has no bias in its MLP, as hybrid models mix layers.
  EXPECT_THAT(Audit(KeySet().AddLayers("layers", 12,
                                       [](const std::string& name) {
                                         return name.ends_with(".bias") &&
                                                (name.starts_with("layers.3.") || name.starts_with("layers.7.") ||
                                                 name.starts_with("layers.11."));
                                       })),
              IsEmpty());
}

TEST(AuditNames, AFirstLayerWithoutANormIsAKindOfModel) {
  EXPECT_THAT(Audit(KeySet().AddLayers("layers", 12, Is("layers.0.norm.weight"))), IsEmpty());
}

TEST(AuditNames, StagesOfOtherSizesAreNotAlike) {
  KeySet keys;
  for (uint64_t stage = 0; stage < 4; ++stage) {
    keys.Add(absl::StrCat("stages.", stage, ".block.weight"), {uint64_t{8} << stage, 8})
        .Add(absl::StrCat("stages.", stage, ".norm.weight"));
    if (stage < 3) keys.Add(absl::StrCat("stages.", stage, ".downsample.weight"));
  }
  EXPECT_THAT(Audit(keys), IsEmpty());
}

TEST(AuditNames, AModuleWithoutANumberIsComparedWithItsNamesakes) {
  KeySet keys;
  for (const char* tower : {"text", "vision", "audio", "video"}) {
    for (const char* leaf : {"weight", "bias", "running_mean", "running_var"}) {
      if (tower == std::string("audio") && leaf == std::string("running_var")) continue;
      keys.Add(absl::StrCat(tower, ".out.norm.", leaf));
    }
  }
  const auto findings = Audit(keys);
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_THAT(findings[0].names, ElementsAre("audio.out.norm.running_var"));
}

TEST(AuditNames, ABiasAloneIsNoSign) {
  KeySet keys;
  for (const char* tower : {"text", "vision", "audio", "video"}) {
    keys.Add(absl::StrCat(tower, ".proj.weight"));
    if (tower != std::string("audio")) keys.Add(absl::StrCat(tower, ".proj.bias"));
  }
  EXPECT_THAT(Audit(keys), IsEmpty());
}

TEST(AuditNames, ManyNamesAreCountedAndTheFirstOnesTold) {
  const auto findings = Audit(KeySet().AddLayers("layers", 40, [](const std::string& name) {
    return name.ends_with("attn.q.weight") && (name.starts_with("layers.1") && name[8] != '.');  // 10 to 19
  }));
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].count, 10u);
  EXPECT_EQ(findings[0].names.front(), "layers.10.attn.q.weight");
  EXPECT_THAT(findings[0].message, HasSubstr(", ..."));
}

TEST(AuditNames, OddNamesCostNothingAndSayNothing) {
  std::string deep = "0";
  for (int i = 0; i < 200; ++i) deep += ".0";
  EXPECT_THAT(Audit(KeySet().Add(deep).Add("0").Add("..").Add(".0.").Add("1.x").Add("99999999999.y.z").Add("007.a.b")),
              IsEmpty());
}

TEST(AuditNames, ACancelledRequestEnds) {
  std::stop_source stop;
  stop.request_stop();
  RequestContext context;
  context.stop = stop.get_token();
  const NumberedLists lists = KeySet().AddLayers("layers", 40).Lists();
  EXPECT_EQ(AuditNames(lists, context).status().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace keyload
