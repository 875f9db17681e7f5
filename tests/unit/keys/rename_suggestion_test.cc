#include "server/keys/rename_suggestion.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/strings.h"
#include "tests/unit/keys/reconcile_case.h"

namespace keyload {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// The names of a small decoder, each with a shape of its own kind.
std::vector<TensorSpec> Decoder(int layers = 3) {
  std::vector<TensorSpec> tensors = {Parameter("model.embed_tokens.weight", {9, 4})};
  for (int i = 0; i < layers; ++i) {
    const std::string layer = StrCat("model.layers.", i, ".");
    tensors.push_back(Parameter(layer + "self_attn.q_proj.weight", {4, 4}));
    tensors.push_back(Parameter(layer + "mlp.up_proj.weight", {8, 4}));
    tensors.push_back(Parameter(layer + "norm.weight", {4}));
  }
  tensors.push_back(Parameter("model.norm.weight", {4}));
  tensors.push_back(Parameter("lm_head.weight", {9, 4}));
  return tensors;
}

template <typename Change>
ReconcileCase Stored(Change change, bool rename_auto = false) {
  ReconcileCase decoder = {.stored = {}, .manifest = {.tensors = Decoder()}};
  for (const TensorSpec& tensor : decoder.manifest.tensors)
    decoder.stored.push_back({change(tensor.name), tensor.shape});
  decoder.rules.rename_auto = rename_auto;
  return decoder;
}

template <typename Change>
void ExpectMended(Change change, std::string_view flag) {
  const auto told = Stored(change).Report();
  EXPECT_GT(told->counts.missing, 0u);
  EXPECT_EQ(told->counts.missing, told->counts.unexpected);
  EXPECT_THAT(told->warnings,
              ElementsAre(HasSubstr(StrCat("all ", told->counts.missing, " missing keys are in the checkpoint"))));
  EXPECT_THAT(told->warnings, ElementsAre(HasSubstr(std::string(flag))));
  const auto mended = Stored(change, true).Report();
  EXPECT_EQ(mended->counts.missing, 0u);
  EXPECT_EQ(mended->counts.unexpected, 0u);
  EXPECT_THAT(mended->warnings, ElementsAre(HasSubstr("renamed as by")));
}

std::string Inserted(std::string name, std::string_view before, std::string_view text) {
  const size_t at = name.find(before);
  return at == std::string::npos ? name : name.insert(at, text);
}

TEST(SuggestRenames, APrefixOfAllNamesIsStripped) {
  for (const char* prefix : {"_orig_mod.", "module._orig_mod.", "base_model.model.", "student.0.", "a+b."})
    ExpectMended([&](const std::string& name) { return prefix + name; }, "=>'");
  ExpectMended([](const std::string& name) { return "_orig_mod." + name; }, R"(--rename '^_orig_mod\.=>')");
}

TEST(SuggestRenames, APrefixThatOnlySomeLackIsAdded) {
  const auto report =
      Stored([](const std::string& name) { return name.starts_with("model.") ? name.substr(6) : name; }).Report();
  EXPECT_EQ(report->counts.missing, 11u);
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr("without the prefix \"model.\"; --rename '^=>model.'")));
}

TEST(SuggestRenames, AWrapperInsideNamesIsRemovedAsOftenAsItStandsThere) {
  ExpectMended([](const std::string& name) { return Inserted(name, "layers.", "_fsdp_wrapped_module."); },
               R"(--rename '^model\._fsdp_wrapped_module\.=>model.')");
  ExpectMended([](const std::string& name) { return Inserted(name, "weight", "_orig_mod."); },
               R"(with "_orig_mod." in them)");
  ExpectMended(
      [](const std::string& name) {
        return Inserted(Inserted(name, "layers.", "_wrapped."), "weight",
                        name.find("_proj") == std::string::npos ? "" : "_wrapped.");
      },
      "_wrapped");
}

TEST(SuggestRenames, AModuleOfAnotherNameIsExchanged) {
  const auto attention = [](std::string name) {
    const size_t at = name.find("self_attn");
    return at == std::string::npos ? name : name.replace(at, 9, "attention");
  };
  const auto report = Stored(attention).Report();
  EXPECT_EQ(report->counts.missing, 3u);
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr(R"(with "attention" for "self_attn")")));
  EXPECT_EQ(Stored(attention, true).Report()->counts.missing, 0u);
}

TEST(SuggestRenames, AWrappedAdapterNeedsTwoChanges) {
  ExpectMended(
      [](const std::string& name) {
        return "base_model.model." +
               Inserted(name, "weight", name.find("q_proj") == std::string::npos ? "" : "base_layer.");
      },
      "and with \"base_layer.\" in them");
}

TEST(SuggestRenames, WhatMendsAPartIsToldAndNotApplied) {
  ReconcileCase decoder = Stored([](const std::string& name) { return "module." + name; }, true);
  std::erase_if(decoder.stored, [](const StoredKey& key) { return key.name == "module.model.norm.weight"; });
  const auto report = decoder.Report();
  EXPECT_EQ(report->counts.missing, 12u);
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr("11 of 12 missing keys are")));
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr("is not applied by itself")));
}

TEST(SuggestRenames, OtherShapesAndOtherLayersAreNoOtherNames) {
  ReconcileCase shapes = Stored([](const std::string& name) { return "module." + name; });
  for (StoredKey& key : shapes.stored) key.shape.push_back(3);
  EXPECT_THAT(shapes.Report()->warnings, IsEmpty());
  ReconcileCase layers = Stored([](std::string name) {
    const size_t at = name.find("layers.2");
    return at == std::string::npos ? name : name.replace(at, 8, "layers.7");
  });
  EXPECT_THAT(layers.Report()->warnings, IsEmpty());
}

// A head that the checkpoint lacks, and a pooler that the model lacks, have nothing to do with each other.
TEST(SuggestRenames, ALikenessOfFewNamesIsNoRename) {
  ReconcileCase bert = {
      .stored = {{"bert.x.weight", {4}}, {"pooler.dense.weight", {4, 4}}, {"pooler.dense.bias", {4}}},
      .manifest = {.tensors = {Parameter("bert.x.weight", {4}), Parameter("cls.bias", {9}),
                               Parameter("cls.transform.dense.weight", {4, 4}),
                               Parameter("cls.transform.dense.bias", {4}), Parameter("cls.transform.norm.weight", {4}),
                               Parameter("cls.transform.norm.bias", {4})}}};
  bert.rules.rename_auto = true;
  EXPECT_EQ(bert.Report()->counts.missing, 5u);
  EXPECT_THAT(bert.Report()->warnings, IsEmpty());
}

TEST(SuggestRenames, ARenameThatMakesAConflictIsNotSuggested) {
  ReconcileCase both = Stored([](const std::string& name) { return "module." + name; });
  both.stored.push_back({"model.norm.weight", Shape{4}});
  EXPECT_THAT(both.Report()->warnings, IsEmpty());
}

TEST(SuggestRenames, TiedAndUnselectedKeysNeedNoMending) {
  ReconcileCase decoder = Stored([](const std::string& name) { return "_orig_mod." + name; }, true);
  decoder.manifest.tied_groups = {{.source = "model.embed_tokens.weight", .targets = {"lm_head.weight"}}};
  std::erase_if(decoder.stored, [](const StoredKey& key) { return key.name.ends_with("lm_head.weight"); });
  decoder.selection.include = {"model.layers.1.*", "lm_head.weight", "model.embed_tokens.weight"};
  const auto report = decoder.Report();
  EXPECT_EQ(report->counts.missing, 0u);
  EXPECT_EQ(report->counts.missing_tied, 1u);
  EXPECT_EQ(StoredFor(*report, "model.layers.1.norm.weight"), "_orig_mod.model.layers.1.norm.weight");
}

TEST(SuggestRenames, ManyNamesAreLinear) {
  ReconcileCase decoder = {.stored = {}, .manifest = {.tensors = Decoder(20'000)}};
  for (const TensorSpec& tensor : decoder.manifest.tensors)
    decoder.stored.push_back({"module." + tensor.name, tensor.shape});
  EXPECT_THAT(decoder.Report()->warnings, Contains(HasSubstr("all 60003 missing keys")));
}

}  // namespace
}  // namespace keyload
