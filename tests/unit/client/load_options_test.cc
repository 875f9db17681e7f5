#include "client/cli/load_options.h"

#include <algorithm>

#include "client/cli/exit_code.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/temporary_folder.h"

namespace keyload::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class LoadOptionsTest : public testing::Test {
 protected:
  // Parses a command line as `keyload load` does and builds the request.
  absl::StatusOr<LoadInput> Build(std::vector<std::string> arguments) {
    LoadOptions options;
    options.model = "m";
    options.from = "dir";
    CLI::App app;
    AddLoadOptions(app, options);
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them last first
    try {
      app.parse(arguments);
    } catch (const CLI::ParseError& error) {
      return UsageError(error.what());
    }
    return BuildLoadInput(options, "/work");
  }

  void ExpectUsageError(std::vector<std::string> arguments, const std::string& part) {
    absl::Status status = Build(std::move(arguments)).status();
    EXPECT_EQ(ExitCodeFor(status), kExitUsage) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }

  TemporaryFolder folder_;
};

TEST_F(LoadOptionsTest, WithoutFlagsOnlyTheModelAndThePathAreSet) {
  auto input = Build({});
  ASSERT_TRUE(input.ok()) << input.status();
  v1::LoadSpec expected;
  expected.set_model("m");
  expected.mutable_source()->set_path("/work/dir");
  EXPECT_EQ(input->spec.SerializeAsString().size(), [&] {
    expected.mutable_device_map();
    return expected.SerializeAsString().size();
  }());
  EXPECT_FALSE(input->manifest || input->selection.key_list);
}

TEST_F(LoadOptionsTest, ATraceNeedsTheReport) {
  LoadOptions options;
  options.model = "m";
  options.from = "dir";
  options.trace = "trace.json";
  EXPECT_TRUE(BuildLoadInput(options, "/work").ok());
  options.detach = true;
  EXPECT_EQ(ExitCodeFor(BuildLoadInput(options, "/work").status()), kExitUsage);
}

TEST_F(LoadOptionsTest, HowALoadWaits) {
  auto input = Build({"--priority", "-3", "--wait-memory", "1m30s"});
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(input->spec.priority(), -3);
  EXPECT_EQ(input->spec.wait_memory().seconds(), 90);
  EXPECT_FALSE(Build({})->spec.has_wait_memory());
  ExpectUsageError({"--wait-memory", "long"}, "--wait-memory");
  ExpectUsageError({"--wait-memory", "-1s"}, "--wait-memory");
  ExpectUsageError({"--priority", "high"}, "high");
}

TEST_F(LoadOptionsTest, AnAbsolutePathStays) {
  LoadOptions options;
  options.from = "/models/m";
  EXPECT_EQ(BuildLoadInput(options, "/work")->spec.source().path(), "/models/m");
}

TEST_F(LoadOptionsTest, GlobsKeepTheirBracketsAndBraces) {
  auto input = Build({"--include", "[ab]", "--include", "layers.{0,1}.*", "--exclude", "*.bias"});
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_THAT(input->selection.select.include(), ElementsAre("[ab]", "layers.{0,1}.*"));
  EXPECT_THAT(input->selection.select.exclude(), ElementsAre("*.bias"));
}

TEST_F(LoadOptionsTest, StrictSetsAllLimitsToZero) {
  auto limits = Build({"--strict"})->spec.limits();
  EXPECT_TRUE(limits.has_max_missing() && limits.has_max_unexpected() && limits.has_max_mismatched());
  EXPECT_EQ(limits.max_missing() + limits.max_unexpected() + limits.max_mismatched(), 0u);
}

TEST_F(LoadOptionsTest, ALimitLeavesTheOthersUnset) {
  auto limits = Build({"--max-missing", "3"})->spec.limits();
  EXPECT_EQ(limits.max_missing(), 3u);
  EXPECT_FALSE(limits.has_max_unexpected() || limits.has_max_mismatched());
  EXPECT_FALSE(Build({})->spec.has_limits());
}

TEST_F(LoadOptionsTest, StrictAndALimitExcludeEachOther) {
  ExpectUsageError({"--strict", "--max-missing", "3"}, "--strict");
}

TEST_F(LoadOptionsTest, RenamesAreSplitAtTheArrow) {
  auto input = Build({"--rename", R"(^model\.=>)", "--rename", R"((\d+)=>layer.\1)"});
  ASSERT_TRUE(input.ok()) << input.status();
  ASSERT_EQ(input->spec.rules().renames_size(), 2);
  EXPECT_EQ(input->spec.rules().renames(0).replacement(), "");
  EXPECT_EQ(input->spec.rules().renames(1).pattern(), R"((\d+))");
  EXPECT_EQ(input->spec.rules().renames(1).replacement(), R"(layer.\1)");
  ExpectUsageError({"--rename", "no-arrow"}, "--rename");
}

TEST_F(LoadOptionsTest, AnEmptyBasePrefixIsSet) {
  EXPECT_TRUE(Build({"--base-prefix", ""})->spec.rules().has_base_model_prefix());
  EXPECT_FALSE(Build({})->spec.rules().has_base_model_prefix());
}

TEST_F(LoadOptionsTest, WordsBecomeEnums) {
  auto spec =
      Build({"--lazy", "--reserve", "on-demand", "--missing", "ZEROS", "--if-exists", "replace", "--hold"})->spec;
  EXPECT_EQ(spec.residency(), v1::RESIDENCY_LAZY);
  EXPECT_EQ(spec.reserve(), v1::RESERVE_ON_DEMAND);
  EXPECT_EQ(spec.missing(), v1::MISSING_POLICY_ZEROS);
  EXPECT_EQ(spec.if_exists(), v1::IF_EXISTS_REPLACE);
  EXPECT_EQ(spec.page_cache(), v1::PAGE_CACHE_HOLD);
  ExpectUsageError({"--missing", "unspecified"}, "leave, zeros, init");
}

TEST_F(LoadOptionsTest, AJsonManifestIsSentAsBinary) {
  auto input =
      Build({"--manifest", folder_.Write("m.json", "\n {\"tensors\": [{\"name\": \"w\", \"shape\": [\"2\", 3]}]}")});
  ASSERT_TRUE(input.ok()) << input.status();
  v1::ModelManifest manifest;
  ASSERT_TRUE(manifest.ParseFromString(*input->manifest));
  EXPECT_THAT(manifest.tensors(0).shape(), ElementsAre(2, 3));
}

TEST_F(LoadOptionsTest, ABinaryManifestIsSentAsItIs) {
  const std::string bytes(
      "\n\x03"
      "abc",
      5);
  EXPECT_EQ(Build({"--manifest", folder_.Write("m.bin", bytes)})->manifest, bytes);
}

TEST_F(LoadOptionsTest, AJsonManifestWithAnUnknownFieldIsRefused) {
  ExpectUsageError({"--manifest", folder_.Write("m.json", R"({"tensor": []})")}, "m.json");
}

TEST_F(LoadOptionsTest, AFewKeysTravelInTheRequestAndManyAsADocument) {
  auto few = Build({"--keys", folder_.Write("few", "a\r\n\nb")});
  EXPECT_THAT(few->selection.select.keys(), ElementsAre("a", "b"));
  EXPECT_FALSE(few->selection.key_list);
  std::string names;
  for (int i = 0; i < 1001; ++i) names += "k" + std::to_string(i) + "\n";
  auto many = Build({"--keys", folder_.Write("many", names)});
  EXPECT_EQ(many->selection.select.keys_size(), 0);
  EXPECT_EQ(many->selection.key_list, names);
}

TEST_F(LoadOptionsTest, AnEmptyKeyFileDoesNotMeanEveryKey) {
  ExpectUsageError({"--keys", folder_.Write("none", "\n\n")}, "names no key");
}

TEST_F(LoadOptionsTest, AWarmedModelHasNoCopy) {
  ExpectUsageError({"--warm", "--copy"}, "--copy");
  ExpectUsageError({"--hold", "--copy"}, "--copy");
  ExpectUsageError({"--warm", "--hold"}, "--hold");
  ExpectUsageError({"--warm", "--drop-cache"}, "--drop-cache");
  EXPECT_EQ(Build({"--copy", "--drop-cache"})->spec.page_cache(), v1::PAGE_CACHE_DROP);
}

TEST_F(LoadOptionsTest, ReserveIsForALazyLoad) {
  ExpectUsageError({"--reserve", "now"}, "--lazy");
  EXPECT_EQ(Build({"--reserve", "now", "--lazy"})->spec.reserve(), v1::RESERVE_NOW);
  ExpectUsageError({"--lazy", "--reserve", "later"}, "on_demand, now");
}

}  // namespace
}  // namespace keyload::cli
