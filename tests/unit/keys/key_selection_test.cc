#include "server/keys/key_selection.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/base/error.h"

namespace keyload {
namespace {

bool Matches(const std::string& glob, std::string_view name) {
  const auto selection = KeySelection::Compile({.include = {glob}});
  EXPECT_TRUE(selection.ok()) << selection.status();
  return selection.ok() && selection->Selects(name);
}

TEST(Glob, MatchesWholeNames) {
  EXPECT_TRUE(Matches("a.b", "a.b"));
  EXPECT_FALSE(Matches("a.b", "a.bc"));
  EXPECT_FALSE(Matches("a.b", "xa.b"));
  EXPECT_FALSE(Matches("a.b", "axb")) << "a dot is a dot";
}

TEST(Glob, StarMatchesAnythingDotsAndNewlinesToo) {
  EXPECT_TRUE(Matches("model.layers.3.*", "model.layers.3.mlp.up.weight"));
  EXPECT_FALSE(Matches("model.layers.3.*", "model.layers.31.mlp.up.weight"));
  EXPECT_TRUE(Matches("a**b", "ab"));
  EXPECT_TRUE(Matches("a*b", "a\nb"));
}

TEST(Glob, QuestionMarkMatchesOneCharacter) {
  EXPECT_TRUE(Matches("l.?.w", "l.3.w"));
  EXPECT_FALSE(Matches("l.?.w", "l.13.w"));
  EXPECT_FALSE(Matches("l.?.w", "l..w"));
  EXPECT_TRUE(Matches("?", "\xC3\xA9")) << "a code point, not a byte";
}

TEST(Glob, SetsFollowFnmatch) {
  EXPECT_TRUE(Matches("[abc]", "b"));
  EXPECT_FALSE(Matches("[!abc]", "b"));
  EXPECT_TRUE(Matches("[!abc]", "d"));
  EXPECT_TRUE(Matches("[0-3]", "2"));
  EXPECT_FALSE(Matches("[0-3]", "4"));
  EXPECT_TRUE(Matches("[]a]", "]"));
  EXPECT_FALSE(Matches("[!]a]", "]"));
  EXPECT_TRUE(Matches("[^a]", "^")) << "^ is no complement";
  EXPECT_TRUE(Matches("[^a]", "a"));
  EXPECT_TRUE(Matches("[-a]", "-"));
  EXPECT_TRUE(Matches("[a-]", "-"));
  EXPECT_TRUE(Matches("[a-c-e]", "-"));
  EXPECT_TRUE(Matches("[a-c-e]", "e"));
  EXPECT_FALSE(Matches("[a-c-e]", "d"));
  EXPECT_TRUE(Matches("[\xC3\xA0-\xC3\xAF]", "\xC3\xA9"));
  EXPECT_TRUE(Matches("[\\d]", "\\")) << "no escape character";
  EXPECT_FALSE(Matches("[\\d]", "5"));
}

TEST(Glob, AnEmptyRangeMatchesNothing) {
  EXPECT_FALSE(Matches("[z-a]", "b"));
  EXPECT_TRUE(Matches("[!z-a]", "b"));
}

TEST(Glob, AnUnclosedBracketIsLiteral) {
  EXPECT_TRUE(Matches("a[b", "a[b"));
  EXPECT_TRUE(Matches("a[]", "a[]"));
  EXPECT_TRUE(Matches("a[!]", "a[!]"));
}

TEST(Glob, BracesAreAlternatives) {
  EXPECT_TRUE(Matches("{q,k,v}_proj", "k_proj"));
  EXPECT_FALSE(Matches("{q,k,v}_proj", "o_proj"));
  EXPECT_TRUE(Matches("a{,.b}", "a"));
  EXPECT_TRUE(Matches("a{,.b}", "a.b"));
  EXPECT_TRUE(Matches("{a*,b?}c", "axxc"));
}

TEST(Glob, BracesNest) {
  EXPECT_TRUE(Matches("{a,b{c,d}}e", "ae"));
  EXPECT_TRUE(Matches("{a,b{c,d}}e", "bde"));
  EXPECT_FALSE(Matches("{a,b{c,d}}e", "be"));
}

TEST(Glob, BracesWithIntegersAreRanges) {
  EXPECT_TRUE(Matches("l.{0..7}.w", "l.0.w"));
  EXPECT_TRUE(Matches("l.{0..7}.w", "l.7.w"));
  EXPECT_FALSE(Matches("l.{0..7}.w", "l.8.w"));
  EXPECT_TRUE(Matches("l.{12..9}.w", "l.10.w"));
  EXPECT_TRUE(Matches("{-1..1}", "-1"));
  EXPECT_TRUE(Matches("{a..c}", "a..c")) << "letters are no range";
}

TEST(Glob, UnclosedBracesAndLoneCommasAreLiteral) {
  EXPECT_TRUE(Matches("a{b", "a{b"));
  EXPECT_TRUE(Matches("a}b", "a}b"));
  EXPECT_TRUE(Matches("a,b", "a,b"));
  EXPECT_TRUE(Matches("{a{b,c}", "{ab"));
}

TEST(Glob, ASetHidesBracesAndCommas) {
  EXPECT_TRUE(Matches("{[},],a}", "}"));
  EXPECT_TRUE(Matches("{[},],a}", ","));
  EXPECT_TRUE(Matches("{[},],a}", "a"));
}

TEST(Glob, RegexCharactersAreLiteral) {
  const std::string name = "a+b(c)|d^e$f\\g#h~i";
  EXPECT_TRUE(Matches(name, name));
  EXPECT_FALSE(Matches("a+", "aa"));
  EXPECT_TRUE(Matches(std::string("a\0b", 3), std::string("a\0b", 3)));
}

TEST(KeySelection, SelectsEverythingByDefault) {
  EXPECT_TRUE(KeySelection().selects_all());
  EXPECT_TRUE(KeySelection().Selects("any"));
}

TEST(KeySelection, UnitesIncludesAndNames) {
  const auto selection = KeySelection::Compile({.include = {"a.*", "b.*"}, .keys = {"c.w"}});
  ASSERT_TRUE(selection.ok());
  EXPECT_FALSE(selection->selects_all());
  EXPECT_TRUE(selection->Selects("a.w"));
  EXPECT_TRUE(selection->Selects("b.w"));
  EXPECT_TRUE(selection->Selects("c.w"));
  EXPECT_FALSE(selection->Selects("c.x"));
}

TEST(KeySelection, NamesAloneSelectOnlyThemselves) {
  const auto selection = KeySelection::Compile({.keys = {"a*"}});
  ASSERT_TRUE(selection.ok());
  EXPECT_TRUE(selection->Selects("a*"));
  EXPECT_FALSE(selection->Selects("ab"));
}

TEST(KeySelection, ExcludeWinsOverIncludeAndNames) {
  const auto selection = KeySelection::Compile({.include = {"a.*"}, .exclude = {"*.bias"}, .keys = {"b.bias"}});
  ASSERT_TRUE(selection.ok());
  EXPECT_TRUE(selection->Selects("a.weight"));
  EXPECT_FALSE(selection->Selects("a.bias"));
  EXPECT_FALSE(selection->Selects("b.bias"));
}

TEST(KeySelection, ExcludeAloneSelectsTheRest) {
  const auto selection = KeySelection::Compile({.exclude = {"a.*"}});
  ASSERT_TRUE(selection.ok());
  EXPECT_FALSE(selection->selects_all());
  EXPECT_TRUE(selection->Selects("b"));
  EXPECT_FALSE(selection->Selects("a.b"));
}

TEST(KeySelection, KnowsItsNamesAfterAMove) {
  auto selection = KeySelection::Compile({.keys = {"a", "b"}});
  ASSERT_TRUE(selection.ok());
  const KeySelection moved = *std::move(selection);
  EXPECT_TRUE(moved.Selects("a"));
  EXPECT_EQ(moved.name_count(), 2u);
}

TEST(KeySelection, RangesOfASetMayOverlapAndComeInAnyOrder) {
  EXPECT_TRUE(
      Matches("[\xC3\xB0-\xC3\xB5"
              "a-f\xC3\xA0-\xC3\xB2"
              "c-k]",
              "\xC3\xB4"));
  EXPECT_TRUE(
      Matches("[\xC3\xB0-\xC3\xB5"
              "a-f\xC3\xA0-\xC3\xB2"
              "c-k]",
              "\xC3\xA1"));
  EXPECT_TRUE(Matches("[x-za-fc-k]", "j"));
  EXPECT_FALSE(Matches("[x-za-fc-k]", "l"));
  EXPECT_FALSE(Matches("[!x-za-fc-k]", "d"));
  EXPECT_FALSE(Matches("[\xC3\xA0-\xC3\xA2\xC3\xB0]", "\xC3\xA3"));
}

TEST(KeySelection, RefusesTooManyPatterns) {
  const KeySelectionSpec spec{.include = std::vector<std::string>(600, "a"),
                              .exclude = std::vector<std::string>(401, "b")};
  EXPECT_EQ(ErrorReason(KeySelection::Compile(spec).status()), Reason::kPatternInvalid);
}

TEST(KeySelection, RefusesTooMuchPatternText) {
  const auto status = KeySelection::Compile({.include = {std::string(65 * 1024, 'a')}}).status();
  EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
}

TEST(KeySelection, RefusesTooManyAlternativesAndNamesTheGlob) {
  for (const std::string glob : {"l.{0..100000}.w", "{-9223372036854775808..9223372036854775807}"}) {
    const auto status = KeySelection::Compile({.include = {glob}}).status();
    EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
    EXPECT_EQ(ErrorDetails(status)["pattern"], glob);
  }
}

TEST(KeySelection, CountsAlternativesOverAllPatterns) {
  const auto status = KeySelection::Compile({.include = {"{0..6000}"}, .exclude = {"{0..6000}"}}).status();
  EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
}

TEST(KeySelection, RefusesRangesOfLongNumbersAndTakesTheUsualOnes) {
  const auto status = KeySelection::Compile({.include = {"*{1000000000000000000..1000000000000009998}"}}).status();
  EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
  EXPECT_TRUE(KeySelection::Compile({.include = {"*{0..9998}"}}).ok());
}

TEST(KeySelection, SaysWhatItsGlobsTake) {
  const auto small = KeySelection::Compile({.include = {"a.*"}});
  const auto large = KeySelection::Compile({.include = {"*{0..9998}"}});
  EXPECT_LT(small->memory_bytes(), 10'000);
  EXPECT_GT(large->memory_bytes(), 500'000) << "a bit for each of 40,000 states and 128 characters";
}

TEST(KeySelection, RefusesDeepNesting) {
  const auto status = KeySelection::Compile({.include = {std::string(40, '{') + std::string(40, '}')}}).status();
  EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
  EXPECT_TRUE(KeySelection::Compile({.include = {std::string(60'000, '{')}}).ok()) << "unclosed ones do not nest";
}

TEST(KeySelection, RefusesAPatternThatIsNotUtf8) {
  const auto status = KeySelection::Compile({.include = {"a", "b\xFF"}}).status();
  EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
  EXPECT_EQ(ErrorDetails(status)["pattern"], "b\xFF");
}

TEST(KeySelection, MatchesHostileStarsInLinearTime) {
  std::string glob;
  for (int i = 0; i < 200; ++i) absl::StrAppend(&glob, "*a");
  EXPECT_FALSE(Matches(glob + "b", std::string(5000, 'a')));
}

TEST(KeySelection, MatchesAcrossWordsOfStates) {
  std::string glob = "*", name;
  for (int i = 0; i < 150; ++i) {
    absl::StrAppend(&glob, i % 3 == 0 ? "{ab,a?}" : i % 3 == 1 ? "?" : "[c-e]", i % 7 == 0 ? "*" : "");
    absl::StrAppend(&name, i % 3 == 0 ? "ax" : i % 3 == 1 ? "\xC3\xA9" : "d", i % 14 == 0 ? "between" : "");
  }
  EXPECT_TRUE(Matches(glob, name));
  EXPECT_TRUE(Matches(glob, "before" + name));
  EXPECT_FALSE(Matches(glob, name + "x"));
}

TEST(KeySelection, ManyGlobsThatBeginAlikeMatchEachTheirOwn) {
  std::vector<std::string> globs;
  for (int i = 0; i < 300; ++i) globs.push_back(absl::StrCat("model.layers.", i, ".*.weight"));
  const auto selection = KeySelection::Compile({.include = globs});
  ASSERT_TRUE(selection.ok());
  for (int i = 0; i < 300; ++i) {
    EXPECT_TRUE(selection->Selects(absl::StrCat("model.layers.", i, ".mlp.weight")));
    EXPECT_FALSE(selection->Selects(absl::StrCat("model.layers.", i, ".mlp.bias")));
  }
  EXPECT_FALSE(selection->Selects("model.layers.300.mlp.weight"));
}

TEST(KeySelection, CheckWorkTakesHundredsOfGlobsOverAMillionKeys) {
  std::vector<std::string> globs;
  for (int i = 0; i < 500; ++i) globs.push_back(absl::StrCat("model.layers.*.mlp.experts.", i, ".*_proj.weight"));
  const auto selection = KeySelection::Compile({.include = globs});
  ASSERT_TRUE(selection.ok());
  EXPECT_TRUE(selection->CheckWork(1'000'000 * 60).ok());
}

TEST(KeySelection, CheckWorkRefusesWhatMayTakeTooLongAndSaysWhatCounts) {
  std::vector<std::string> globs(60, "");
  for (std::string& glob : globs) {
    for (int i = 0; i < 250; ++i) absl::StrAppend(&glob, "*x?*y?");
    glob.resize(1000);
  }
  const auto selection = KeySelection::Compile({.include = globs});
  ASSERT_TRUE(selection.ok());
  EXPECT_TRUE(selection->CheckWork(92'000 * 60).ok()) << "slow, but it ends: the context is asked meanwhile";
  const absl::Status status = selection->CheckWork(3'000'000'000);
  EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
  EXPECT_EQ(ErrorDetails(status)["name_bytes"], "3000000000");
  EXPECT_EQ(ErrorDetails(status)["limit_steps"], absl::StrCat(kMaxSelectionSteps));
  EXPECT_TRUE(KeySelection().CheckWork(UINT64_MAX).ok());
}

}  // namespace
}  // namespace keyload
