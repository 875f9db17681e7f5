#include "server/service/kept_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

namespace fs = std::filesystem;

// Writes a request as "GENERATION:PATH;".
class TextCodec : public StateCodec {
 public:
  std::string WriteModel(const LoadSpec& spec, uint64_t generation, bool /*extends*/) const override {
    return StrCat(generation, ":", spec.source.path, ";");
  }
  absl::StatusOr<KeptModel> ReadModel(std::string_view bytes) const override {
    KeptModel model;
    for (const absl::string_view request : absl::StrSplit(ToAbsl(bytes), ';', absl::SkipEmpty())) {
      const std::pair<absl::string_view, absl::string_view> fields = absl::StrSplit(request, ':');
      if (!absl::SimpleAtoi(fields.first, &model.generation)) return MakeError(Reason::kInternal, "no number");
      model.requests.emplace_back().source.path = std::string(fields.second);
    }
    if (model.requests.empty()) return MakeError(Reason::kInternal, "empty");
    return model;
  }
  std::string WriteLoad(const KeptLoad& load) const override { return load.identity.load; }
  absl::StatusOr<KeptLoad> ReadLoad(std::string_view bytes) const override {
    return KeptLoad{.identity = {.load = std::string(bytes)}, .request_ids = {}, .result = absl::UnknownError("")};
  }
  std::string WriteMap(const NamedDeviceMap& map) const override { return map.name; }
  absl::StatusOr<NamedDeviceMap> ReadMap(std::string_view bytes) const override {
    NamedDeviceMap map;
    map.name = bytes;
    return map;
  }
};

class KeptStateTest : public testing::Test {
 protected:
  KeptStateTest()
      : path_(fs::path(testing::TempDir()) / "kept" / testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(path_);
    Restart();
  }
  ~KeptStateTest() override {
    state_ = nullptr;
    fs::remove_all(path_);
  }

  void Restart() {
    state_ = nullptr;
    absl::StatusOr<std::unique_ptr<KeptState>> state = KeptState::Open(path_.string(), codec_);
    ASSERT_TRUE(state.ok()) << state.status();
    state_ = *std::move(state);
  }
  void Keep(const std::string& path, uint64_t generation, bool extends) {
    LoadSpec spec;
    spec.model = "m";
    spec.source.path = path;
    state_->KeepModel(spec, generation, extends);
  }
  // The paths of the requests that the record of "m" has; empty without a record.
  std::vector<std::string> Paths() {
    std::vector<std::string> paths;
    const absl::StatusOr<KeptModel> model = state_->ReadModel("m");
    if (!model.ok()) return paths;
    for (const LoadSpec& spec : model->requests) paths.push_back(spec.source.path);
    return paths;
  }
  std::vector<std::string> Files(const char* kind) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path_ / kind)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
  fs::path Half(const char* kind, const std::string& name) { return path_ / kind / StrCat(".half-", name); }

  const fs::path path_;
  const TextCodec codec_;
  std::unique_ptr<KeptState> state_;
};

constexpr char kSecond[] = "m+00000000000000000002";

TEST_F(KeptStateTest, ExtensionIsARecordOfItsOwn) {
  Keep("a", 1, false);
  const auto written = fs::last_write_time(path_ / "models" / "m");
  Keep("b", 2, true);
  Keep("c", 3, true);
  EXPECT_EQ(fs::last_write_time(path_ / "models" / "m"), written);
  EXPECT_EQ(fs::file_size(path_ / "extensions" / kSecond), fs::file_size(path_ / "models" / "m"));
  Restart();
  const std::vector<KeptState::Model> models = state_->TakeBefore().models;
  ASSERT_EQ(models.size(), 1u);
  EXPECT_EQ(models[0].name, "m");
  EXPECT_EQ(models[0].path, "a");
  EXPECT_THAT(Paths(), testing::ElementsAre("a", "b", "c"));
  EXPECT_GT(state_->first_number(), 3u);
  Keep("d", state_->first_number() + 1, true);
  EXPECT_THAT(Paths(), testing::ElementsAre("a", "b", "c", "d"));
}

TEST_F(KeptStateTest, AnExtensionThatIsTakenBackLeavesTheModelAsItWas) {
  Keep("a", 1, false);
  Keep("b", 2, true);
  state_->TakeBack("m", 2, true);
  EXPECT_THAT(Paths(), testing::ElementsAre("a"));
  EXPECT_THAT(Files("extensions"), testing::IsEmpty());
  Keep("c", 3, true);
  EXPECT_THAT(Paths(), testing::ElementsAre("a", "c"));
}

TEST_F(KeptStateTest, AModelThatIsTakenBackLeavesNoRecord) {
  Keep("a", 1, false);
  state_->TakeBack("m", 1, false);
  EXPECT_THAT(Files("models"), testing::IsEmpty());
  Keep("b", 2, false);
  testing::internal::CaptureStderr();
  Keep("c", 3, false);
  state_->TakeBack("m", 2, false);  // which is not what was kept last
  EXPECT_THAT(Paths(), testing::ElementsAre("c"));
  state_->TakeBack("m", 3, false);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("state not kept"));
  EXPECT_THAT(Files("models"), testing::IsEmpty());
}

TEST_F(KeptStateTest, ExtensionThatCannotBeWrittenLeavesTheModelAndComesWithTheNext) {
  Keep("a", 1, false);
  fs::create_directory(path_ / "extensions" / StrCat(".half-", kSecond));  // in the way
  Keep("b", 2, true);
  EXPECT_THAT(Paths(), testing::ElementsAre("a")) << "which is still true";
  Keep("c", 3, true);
  EXPECT_THAT(Paths(), testing::ElementsAre("a", "b", "c"));
}

TEST_F(KeptStateTest, ModelThatCannotBeWrittenDoesNotBringBackTheOneThatItReplaced) {
  Keep("a", 1, false);
  Keep("b", 2, true);
  fs::create_directory(Half("models", "m"));
  Keep("new", 3, false);
  EXPECT_THAT(Paths(), testing::IsEmpty());
  Keep("wider", 4, true);
  fs::remove(Half("models", "m"));
  Restart();
  EXPECT_THAT(state_->TakeBefore().models, testing::IsEmpty());
  EXPECT_THAT(Files("extensions"), testing::IsEmpty());
}

TEST_F(KeptStateTest, ReplacedAndDroppedModelsTakeTheirExtensionsAlong) {
  Keep("a", 1, false);
  Keep("b", 2, true);
  Keep("new", 3, false);
  EXPECT_THAT(Paths(), testing::ElementsAre("new"));
  EXPECT_THAT(Files("extensions"), testing::IsEmpty());
  Keep("c", 4, true);
  state_->DropModel("m", 4);
  EXPECT_THAT(Files("models"), testing::IsEmpty());
  EXPECT_THAT(Files("extensions"), testing::IsEmpty());
}

TEST_F(KeptStateTest, ExtensionsOfAModelThatWasReplacedAreNotThoseOfTheNewOne) {
  Keep("a", 1, false);
  Keep("b", 2, true);
  fs::copy_file(path_ / "extensions" / kSecond, path_ / "stale");
  Keep("new", 3, false);
  fs::rename(path_ / "stale", path_ / "extensions" / kSecond);  // as if the daemon was killed before it removed it
  Restart();
  EXPECT_THAT(Paths(), testing::ElementsAre("new"));
  EXPECT_THAT(Files("extensions"), testing::IsEmpty());
}

TEST_F(KeptStateTest, ExtensionThatMakesNoSenseCostsItselfAlone) {
  Keep("a", 1, false);
  Keep("b", 2, true);
  std::ofstream(path_ / "extensions" / kSecond) << "nonsense";
  std::ofstream(path_ / "extensions" / "m+") << "nonsense";
  Restart();
  EXPECT_THAT(Paths(), testing::ElementsAre("a"));
  EXPECT_THAT(Files("aside"), testing::ElementsAre("extensions-m+", StrCat("extensions-", kSecond)));
}

TEST_F(KeptStateTest, ReportsThatAreWrittenSoonAreThereAfterTheEndAndDroppedOnesAreNot) {
  for (const char* name : {"load-000001", "load-000002", "load-000003"}) {
    state_->KeepLoadSoon({.identity = {.load = name}, .request_ids = {}, .result = absl::UnknownError("")});
  }
  Restart();
  EXPECT_THAT(Files("loads"), testing::ElementsAre("load-000001", "load-000002", "load-000003"));
  state_->DropLoads({"load-000002"});
  EXPECT_THAT(Files("loads"), testing::ElementsAre("load-000001", "load-000003"));
}

}  // namespace
}  // namespace keyload
