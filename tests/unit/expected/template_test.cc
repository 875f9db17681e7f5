#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "tests/unit/expected/expected_case.h"

namespace keyload {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::string_view kConfig = R"({"model_type": "toy", "n": 2, "size": 3})";

// A family with this tree over n, size and flag.
std::string Family(std::string_view tree, std::string_view rest = "") {
  return StrCat("tree = '''\n", tree, "'''\n", rest, "\n[config]\nn = \"required\"\nsize = 4\nflag = false\n");
}

std::vector<std::string> KeysOf(std::string_view tree, std::string_view config = kConfig) {
  TemplateFolder folder;
  const auto manifest = folder.Derive(Family(tree), config);
  if (!manifest.ok()) return {std::string(manifest.status().message())};
  return Describe(**manifest);
}

TEST(Template, LinesAreKeysInTheirOrder) {
  EXPECT_THAT(
      KeysOf("b [size]\na: Linear\n  weight [n, size] BF16 # the weight\n\n  steps [] I64 buffer\n"
             "  table [2 * n] non_persistent\n"),
      ElementsAre("b [3] F32", "a.weight [2, 3] BF16", "a.steps [] I64 buffer", "a.table [4] F32 non_persistent"));
}
TEST(Template, ARangeRepeatsWhatIsBelowIt) {
  EXPECT_THAT(
      KeysOf("h: List\n  {i = 0..n - 1}: Block\n    a [i]\n    e: List\n      {1..2}: Expert\n        w [1]\nz [1]\n"),
      ElementsAre("h.0.a [0] F32", "h.0.e.1.w [1] F32", "h.0.e.2.w [1] F32", "h.1.a [1] F32", "h.1.e.1.w [1] F32",
                  "h.1.e.2.w [1] F32", "z [1] F32"));
}
TEST(Template, NamesMayHoldDotsAndSeveralRanges) {
  EXPECT_THAT(KeysOf("model.layers.{0..n - 1}.block_{5..6}.weight [1]\n"),
              ElementsAre("model.layers.0.block_5.weight [1] F32", "model.layers.0.block_6.weight [1] F32",
                          "model.layers.1.block_5.weight [1] F32", "model.layers.1.block_6.weight [1] F32"));
}
TEST(Template, ARangeThatEndsBeforeItBeginsHasNothing) {
  EXPECT_THAT(KeysOf("{1..0} [1]\na [1]\n"), ElementsAre("a [1] F32"));
}
TEST(Template, AConditionLeavesOutAModuleWithAllBelowIt) {
  EXPECT_THAT(KeysOf("{i = 0..3}: M if i % n == 1\n  a [i]\n  b [1 // flag] if flag\n"),
              ElementsAre("1.a [1] F32", "3.a [3] F32"));
}
TEST(Template, ModulesHaveTheirClasses) {
  TemplateFolder folder;
  const auto manifest = folder.Derive(
      Family("model: Model\n  {0..1}: Block if true\n    w [1]\nempty: Nothing\n", "no_split_modules = [\"Block\"]"),
      kConfig);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  std::vector<std::string> modules;
  for (const ModuleSpec& module : (*manifest)->modules) modules.push_back(StrCat(module.name, ":", module.class_name));
  EXPECT_THAT(modules, ElementsAre("model:Model", "model.0:Block", "model.1:Block", "empty:Nothing"));
  EXPECT_THAT((*manifest)->no_split_modules, ElementsAre("Block"));
}
TEST(Template, ValuesComeFromTheConfigTheirDefaultAndWhatIsComputed) {
  TemplateFolder folder;
  const std::string family =
      "tree = '''\na [n, size, deep, both, other]\n'''\n[config]\nn = \"required\"\nsize = \"n * 2\"\n"
      "deep = { at = \"x.y\", default = 9 }\nother = { at = \"x.z\", default = \"deep + 1\" }\n[computed]\nboth = \"n "
      "+ size\"\n";
  EXPECT_THAT(Describe(**folder.Derive(family, R"({"model_type": "toy", "n": 3, "size": null, "x": {"y": 5}})")),
              ElementsAre("a [3, 6, 5, 9, 6] F32"));
}
TEST(Template, IgnorePatternsMayHoldRanges) {
  TemplateFolder folder;
  const auto manifest =
      folder.Derive(Family("a [1]\n",
                           "ignore_unexpected = ['^layers\\.{n..n + 1}\\.', 'x{2,3}']\nignore_missing = ['b']\n"
                           "renames = [['x', 'y']]\nbase_model_prefix = 'model'"),
                    kConfig);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_THAT((*manifest)->ignore_unexpected, ElementsAre("^layers\\.2\\.", "^layers\\.3\\.", "x{2,3}"));
  EXPECT_THAT((*manifest)->ignore_missing, ElementsAre("b"));
  EXPECT_EQ((*manifest)->renames.at(0).replacement, "y");
  EXPECT_EQ((*manifest)->base_model_prefix, "model");
}

void ExpectTemplateInvalid(std::string_view family, std::string_view line, std::string_view problem) {
  TemplateFolder folder;
  const absl::Status status = folder.Derive(family, kConfig).status();
  EXPECT_EQ(ErrorReason(status), Reason::kTemplateInvalid) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(StrCat("toy.toml:", line, ": ", problem)));
  EXPECT_EQ(ErrorDetails(status)["line"], std::string(line));
}

TEST(Template, NamesTheLineOfAMistake) {
  ExpectTemplateInvalid("tree = 3", "1", "tree: expected a text");
  ExpectTemplateInvalid("x = [", "1", "");
  ExpectTemplateInvalid("tree = ''\nsize = 3", "2", "size: unknown key");
  ExpectTemplateInvalid("tree = ''\nclasses = ['Linear']", "2", "classes: unknown key");
  ExpectTemplateInvalid(Family("a [1]\nb [1\n"), "3", "the shape has no \"]\"");
  ExpectTemplateInvalid(Family("a [1]\n\n# note\nb [other]\n"), "5", "\"other\" is no value");
  ExpectTemplateInvalid(Family("a\n"), "2", "neither \"NAME: CLASS\" nor \"NAME [SHAPE]\"");
  ExpectTemplateInvalid(Family("a [1] F99\n"), "2", "\"F99\" is no dtype");
  ExpectTemplateInvalid(Family("a [1]\n  b [1]\n"), "3", "a tensor has nothing below it");
  ExpectTemplateInvalid(Family("a: M\n    b [1]\n  c [1]\n"), "4", "indented unlike the lines around it");
  ExpectTemplateInvalid(Family("  a [1]\nb [1]\n"), "3", "less indented than the first line");
  ExpectTemplateInvalid(Family("\ta [1]\n"), "2", "indented with a tab");
  ExpectTemplateInvalid(Family("a..b [1]\n"), "2", "a component of the name is empty");
  ExpectTemplateInvalid(Family("a.{0..1}. [1]\n"), "2", "a component of the name is empty");
  ExpectTemplateInvalid(Family("a b [1]\n"), "2", "\"a b\" is not part of a name");
  ExpectTemplateInvalid(Family("a.{n} [1]\n"), "2", "\"a.{n}\" is not part of a name");
  ExpectTemplateInvalid(Family("{n = 0..1} [1]\n"), "2", "\"n\" has a value already");
  ExpectTemplateInvalid(Family("{i = 0..1}: M\n  a [1]\nb [i]\n"), "4", "\"i\" is no value");
  ExpectTemplateInvalid(Family("a [1]\n", "heads = 3"), "4", "heads: expected a table");
  ExpectTemplateInvalid(Family("a [1]\n", "renames = [['a']]"), "4", "expected [pattern, replacement]");
  ExpectTemplateInvalid(Family("a [1]\n", "supported = ['m == 1']"), "4", "\"m\" is no value");
  ExpectTemplateInvalid(Family("a [1]\n", "tied = [{ source = 'a', target = 'b' }]"), "4", "target: unknown key");
  ExpectTemplateInvalid(Family("a [1]\n") + "n2 = 1.5", "9", "expected an expression");
  ExpectTemplateInvalid(Family("a [1]\n") + "n2 = { at = 'x' }", "9", "n2: expected { at = PATH, default = VALUE }");
  ExpectTemplateInvalid(Family("a [1]\n") + "[computed]\nn = 1", "10", "n has a value already");
}
TEST(Template, ContradictionsAreTheTemplatesFault) {
  ExpectTemplateInvalid(Family("a [1]\na [2]\n"), "1", "manifest: tensor a appears twice");
  ExpectTemplateInvalid(Family("a [1]\n", "tied = [{ source = 'a', targets = ['b'] }]"), "1", "manifest: tied name b");
}
TEST(Template, NestsAtMost32Deep) {
  std::string tree;
  for (int i = 0; i < 40; ++i) tree += std::string(i, ' ') + "m: M\n";
  ExpectTemplateInvalid(Family(tree), "35", "nested too deeply");
}

void ExpectConfigInvalid(std::string_view tree, std::string_view config, std::string_view problem) {
  TemplateFolder folder;
  const absl::Status status = folder.Derive(Family(tree), config).status();
  EXPECT_EQ(ErrorReason(status), Reason::kConfigInvalid) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("config.json: "), HasSubstr(std::string(problem)), HasSubstr("toy.toml:")));
}

TEST(Template, ConfigsThatDoNotFitAreNamedWithTheLine) {
  ExpectConfigInvalid("a [1]\n", R"({"model_type": "toy"})", "n is missing");
  ExpectConfigInvalid("a [1]\n", R"({"model_type": "toy", "n": null})", "n is missing");
  ExpectConfigInvalid("a [n]\n", R"({"model_type": "toy", "n": "2"})", "the text \"2\" where a whole number is needed");
  ExpectConfigInvalid("a [n]\n", R"({"model_type": "toy", "n": 1.5})", "where a whole number is needed");
  ExpectConfigInvalid("a [n]\n", R"({"model_type": "toy", "n": -1})", "n is negative: -1");
  ExpectConfigInvalid("a [size // n]\n", R"({"model_type": "toy", "n": 0})", "division by zero");
  ExpectConfigInvalid("{0..n} [1]\n", R"({"model_type": "toy", "n": []})", "a list where a whole number is needed");
}
TEST(Template, ARangeHasNoFewerNumbersThanNone) {
  ExpectConfigInvalid("{0..n - 1} [1]\n", R"({"model_type": "toy", "n": -5})",
                      "\"0..n - 1\" is 0..-6, fewer than none");
  EXPECT_THAT(KeysOf("{0..n - 1} [1]\na [1]\n", R"({"model_type": "toy", "n": 0})"), ElementsAre("a [1] F32"));
}
TEST(Template, ARangeMayEndWithTheLargestNumber) {
  EXPECT_THAT(KeysOf("{n..n} [1]\n", R"({"model_type": "toy", "n": 9223372036854775807})"),
              ElementsAre("9223372036854775807 [1] F32"));
}
TEST(Template, SizesMustFitInto64Bits) {
  ExpectConfigInvalid("a [n, n]\n", R"({"model_type": "toy", "n": 5000000000})", "the size of a exceeds 64 bits");
  ExpectConfigInvalid("{0..9} [n]\n", R"({"model_type": "toy", "n": 2305843009213693952})", "exceeds 64 bits");
}
TEST(Template, KeysAndWorkAreBounded) {
  const std::string_view many = R"({"model_type": "toy", "n": 9000000000000000000})";
  ExpectConfigInvalid("{0..n} [1]\n", many, "more than 1000000 keys");
  ExpectConfigInvalid("{0..n}: M\n", many, "more than 1000000 keys");
  ExpectConfigInvalid("{0..n} [1] if false\n", many, "lines of the template");
  TemplateFolder folder;
  const absl::Status status = folder.Derive(Family("a [1]\n", "ignore_missing = ['a{0..n}']"), many).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("over 1000 patterns"));
}
TEST(Template, NamesAreBounded) {
  ExpectConfigInvalid(StrCat(std::string(5000, 'x'), " [1]\n"), kConfig, "a name of over 4096 bytes");
}
TEST(Template, ARequirementThatDoesNotHoldIsNotSupported) {
  TemplateFolder folder;
  const absl::Status status = folder.Derive(Family("a [1]\n", "supported = ['n == 1']"), kConfig).status();
  EXPECT_EQ(ErrorReason(status), Reason::kConfigNotSupported);
  EXPECT_THAT(std::string(status.message()), HasSubstr("configurations with n == 1"));
}

}  // namespace
}  // namespace keyload
