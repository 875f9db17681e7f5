#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/base/error.h"
#include "server/keys/pattern_set.h"
#include "server/keys/rename_rules.h"

namespace keyload {
namespace {

PatternSet Compile(const std::vector<std::string>& patterns) {
  PatternBudget budget;
  auto set = PatternSet::Compile("ignore_missing", patterns, {}, budget);
  EXPECT_TRUE(set.ok()) << set.status();
  return set.ok() ? *std::move(set) : PatternSet();
}

TEST(PatternSet, SearchesEveryPattern) {
  const PatternSet set = Compile({"inv_freq", "^lm_head"});
  EXPECT_TRUE(set.Matches("a.inv_freq.b"));
  EXPECT_TRUE(set.Matches("lm_head.weight"));
  EXPECT_FALSE(set.Matches("x.lm_head.weight"));
}

TEST(PatternSet, MatchesNothingWhenEmpty) {
  EXPECT_FALSE(PatternSet().Matches(""));
  EXPECT_FALSE(Compile({}).Matches("a"));
}

TEST(PatternSet, KeepsFlagsInsideTheirPattern) {
  const PatternSet set = Compile({"(?i)abc", "def"});
  EXPECT_TRUE(set.Matches("ABC"));
  EXPECT_FALSE(set.Matches("DEF"));
}

TEST(PatternSet, KeepsAlternativesInsideTheirPattern) {
  const PatternSet set = Compile({"^a|b$", "c"});
  EXPECT_TRUE(set.Matches("ax"));
  EXPECT_TRUE(set.Matches("xb"));
  EXPECT_FALSE(set.Matches("xax"));
}

TEST(PatternSet, KeepsAnOpenQuoteInsideItsPattern) {
  const PatternSet set = Compile({"\\Qa.b", "c.d", "\\Qx\\"});
  EXPECT_TRUE(set.Matches("a.b"));
  EXPECT_FALSE(set.Matches("axb"));
  EXPECT_TRUE(set.Matches("cxd"));
  EXPECT_TRUE(set.Matches("x\\"));
}

TEST(PatternSet, AllowsOneGroupNameInTwoPatterns) {
  const PatternSet set = Compile({"(?P<n>a)", "(?P<n>b)"});
  EXPECT_TRUE(set.Matches("b"));
}

TEST(PatternSet, NamesThePatternThatIsInvalid) {
  for (const std::string& pattern : {std::string("a)(b"), std::string("(?=x)"), std::string("a\\"), std::string("[")}) {
    PatternBudget budget;
    const std::vector<std::string> patterns = {"ok", pattern};
    const absl::Status status = PatternSet::Compile("ignore_missing", {}, patterns, budget).status();
    EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
    EXPECT_EQ(ErrorDetails(status)["pattern"], pattern);
    EXPECT_EQ(ErrorDetails(status)["field"], "ignore_missing");
  }
}

TEST(PatternSet, RefusesAnEmptyPattern) {
  PatternBudget budget;
  EXPECT_EQ(ErrorReason(PatternSet::Compile("ignore_missing", std::vector<std::string>{""}, {}, budget).status()),
            Reason::kPatternInvalid);
}

TEST(PatternSet, RefusesMoreThanTheBudget) {
  PatternBudget count;
  EXPECT_EQ(ErrorReason(PatternSet::Compile("f", std::vector<std::string>(10'001, "a"), {}, count).status()),
            Reason::kPatternInvalid);
  PatternBudget bytes;
  EXPECT_EQ(
      ErrorReason(PatternSet::Compile("f", std::vector<std::string>{std::string(1'048'577, 'a')}, {}, bytes).status()),
      Reason::kPatternInvalid);
}

TEST(PatternSet, BoundsTheMemoryOfAPattern) {
  PatternBudget budget;
  const std::vector<std::string> patterns = {"((a{100}){10}){1000}"};
  EXPECT_EQ(ErrorReason(PatternSet::Compile("f", patterns, {}, budget).status()), Reason::kPatternInvalid);
}

TEST(PatternBudget, TakesHundredsOfPatternsOverAMillionKeys) {
  std::vector<std::string> patterns;
  for (int i = 0; i < 500; ++i) {
    patterns.push_back("^model\\.layers\\.(\\d+)\\.mlp\\.experts\\." + std::to_string(i) +
                       "\\.(gate|up|down)_proj\\.weight$");
  }
  PatternBudget budget;
  EXPECT_TRUE(PatternSet::Compile("ignore_missing", patterns, {}, budget).ok());
  EXPECT_TRUE(budget.CheckWork(1'000'000 * 60).ok());
}

TEST(PatternBudget, RefusesProgramsThatAreLargeTogetherAndSaysHowLarge) {
  PatternBudget budget;
  const std::vector<std::string> patterns(1000, "(?i)[\\pL\\pN]{10}x1");
  const absl::Status status = PatternSet::Compile("ignore_missing", patterns, {}, budget).status();
  EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
  EXPECT_EQ(ErrorDetails(status)["field"], "ignore_missing");
  EXPECT_EQ(ErrorDetails(status)["limit_instructions"], std::to_string(PatternBudget::kMostInstructions));
}

TEST(PatternBudget, RefusesMoreNamesThanThePatternsMayBeSearchedIn) {
  PatternBudget budget;
  ASSERT_TRUE(PatternSet::Compile("ignore_missing", std::vector<std::string>{"a{500}"}, {}, budget).ok());
  EXPECT_TRUE(budget.CheckWork(1'000'000'000).ok());
  const absl::Status status = budget.CheckWork(20'000'000'000);
  EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
  EXPECT_EQ(ErrorDetails(status)["name_bytes"], "20000000000");
}

TEST(PatternBudget, AsksTheContextBeforeEachPattern) {
  std::stop_source stop;
  const RequestContext context = {.stop = stop.get_token()};
  PatternBudget budget(2, &context);
  const std::vector<std::string> patterns = {"a"};
  EXPECT_TRUE(PatternSet::Compile("ignore_missing", patterns, {}, budget).ok());
  stop.request_stop();
  EXPECT_EQ(ErrorReason(PatternSet::Compile("ignore_missing", patterns, {}, budget).status()), Reason::kLoadCancelled);
}

TEST(PatternBudget, SharesOutItsMemory) {
  EXPECT_EQ(PatternBudget(1).memory_bytes(), 1 << 20);
  EXPECT_EQ(PatternBudget(640).memory_bytes(), (64 << 20) / 640);
  EXPECT_EQ(PatternBudget(10'000).memory_bytes(), (64 << 20) / 10'000);
}

TEST(PatternBudget, CountsWhatIsKeptByWhatItsProgramsNeed) {
  PatternBudget few(1);
  ASSERT_TRUE(RenameRules::Compile(std::vector<Rename>{{"^model\\.", ""}}, {}, few).ok());
  EXPECT_LT(few.kept_bytes(), 200'000);
  std::vector<Rename> renames;
  for (int i = 0; i < 5000; ++i) renames.push_back({absl::StrCat("a", i), "b"});
  PatternBudget many(renames.size());
  ASSERT_TRUE(RenameRules::Compile(renames, {}, many).ok());
  EXPECT_GT(many.kept_bytes(), 32 << 20);
  EXPECT_LE(many.kept_bytes(), (64 << 20) + (16 << 20));
}

TEST(PatternBudget, TakesAPatternThatNeedsMoreThanItsPart) {
  PatternBudget budget(10'000);
  EXPECT_TRUE(RenameRules::Compile(std::vector<Rename>{{"(a|b){300}", "c"}}, {}, budget).ok());
}

TEST(PatternBudget, CountsTheTargetsOfConversions) {
  PatternBudget budget;
  budget.TakeTargets(1024);
  EXPECT_TRUE(budget.CheckWork(10'000'000).ok());
  EXPECT_EQ(ErrorReason(budget.CheckWork(100'000'000)), Reason::kPatternInvalid);
}

TEST(SearchWork, EndsWhereTheNamesThatRenamesMakeTakeTooLong) {
  SearchWork work(nullptr);
  const std::string name(4096, 'a');
  EXPECT_TRUE(work.Take(100'000, name).ok());
  absl::Status status;
  for (int i = 0; i < 20'000 && status.ok(); ++i) status = work.Take(100'000, name);
  EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
}

TEST(SearchWork, AsksTheContext) {
  std::stop_source stop;
  stop.request_stop();
  const RequestContext context = {.stop = stop.get_token()};
  SearchWork work(&context);
  EXPECT_EQ(ErrorReason(work.Take(100'000, std::string(4096, 'a'))), Reason::kLoadCancelled);
}

absl::StatusOr<std::string> Apply(const std::vector<Rename>& first, const std::vector<Rename>& second,
                                  std::string_view name) {
  PatternBudget budget;
  auto rules = RenameRules::Compile(first, second, budget);
  if (!rules.ok()) return rules.status();
  NameArena arena(nullptr);
  SearchWork work(nullptr);
  auto renamed = rules->Apply(name, arena, work);
  if (!renamed.ok()) return renamed.status();
  return std::string(*renamed);
}

TEST(RenameRules, ChainInOrderTheRequestFirst) {
  EXPECT_EQ(*Apply({{"a", "b"}}, {{"b", "c"}}, "a"), "c");
  EXPECT_EQ(*Apply({{"b", "c"}}, {{"a", "b"}}, "a"), "b");
}

TEST(RenameRules, ReplaceTheFirstOccurrenceOnly) {
  EXPECT_EQ(*Apply({{"gamma", "weight"}}, {}, "gamma.gamma"), "weight.gamma");
}

TEST(RenameRules, KnowGroups) {
  EXPECT_EQ(*Apply({{"^(.+)\\.scale$", "\\1.weight_scale_inv"}}, {}, "a.b.scale"), "a.b.weight_scale_inv");
}

TEST(RenameRules, LeaveANameThatNoRuleMatches) {
  PatternBudget budget;
  const std::vector<Rename> renames = {{"x", "y"}, {"b", "b"}};
  const auto rules = RenameRules::Compile(renames, {}, budget);
  ASSERT_TRUE(rules.ok());
  NameArena arena(nullptr);
  const std::string name = "ab";
  SearchWork work(nullptr);
  EXPECT_EQ(rules->Apply(name, arena, work)->data(), name.data());
  EXPECT_TRUE(arena.Release().empty()) << "no copy, for a rename to the same text neither";
}

TEST(RenameRules, RefuseAReplacementWithAGroupThatThePatternLacks) {
  const absl::Status status = Apply({{"(a)", "\\2"}}, {}, "a").status();
  EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
  EXPECT_EQ(ErrorDetails(status)["replacement"], "\\2");
}

TEST(RenameRules, RefuseToMakeANameEmpty) {
  const absl::Status status = Apply({{"^.*$", ""}}, {}, "a.b").status();
  EXPECT_EQ(ErrorReason(status), Reason::kPatternInvalid);
  EXPECT_EQ(ErrorDetails(status)["key"], "a.b");
}

TEST(RenameRules, RefuseToMakeANameGrowWithoutBound) {
  const std::vector<Rename> doubling(60, {"^(.*)$", "\\1\\1"});
  EXPECT_EQ(ErrorReason(Apply(doubling, {}, "abc").status()), Reason::kPatternInvalid);
}

TEST(NameArena, KeepsEarlierNamesWhereTheyAre) {
  NameArena arena(nullptr);
  const std::string_view first = *arena.Add("first");
  const std::string_view large = *arena.Add(std::string(200'000, 'x'));
  for (int i = 0; i < 100'000; ++i) ASSERT_TRUE(arena.Add("another name").ok());
  EXPECT_EQ(first, "first");
  EXPECT_EQ(large.size(), 200'000u);
  EXPECT_GT(arena.Release().size(), 2u);
}

}  // namespace
}  // namespace keyload
