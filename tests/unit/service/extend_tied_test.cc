// Tied keys of a model that is made wider.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "tests/unit/service/extend_case.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class ExtendTiedTest : public ExtendTest {
 protected:
  // Keys "src", "t1" and "t2", of which "t1" is not stored, and "other" and "o1", all different.
  ExtendTiedTest() {
    std::vector<TestTensor> tensors;
    for (const char* name : {"src", "t2", "other", "o1"}) {
      tensors.push_back({.name = name, .dtype = DType::kF32, .shape = {256}, .data = ""});
    }
    WriteSafetensors(node_.dir() + "/model.safetensors", tensors);
  }
  LoadSpec TiedSpec(std::vector<std::string> include, std::vector<std::string> targets = {"t1", "t2"}) {
    LoadSpec spec = Spec(std::move(include));
    spec.expected.manifest =
        ManifestOf({"src", "t1", "t2", "other", "o1"}, {256}, {{"src", std::move(targets)}, {"other", {"o1"}}});
    return spec;
  }
  static std::string Stored(const std::string& name) { return PatternBytes(name, 1024); }
  std::string Read(const std::string& key) { return node_.ReadKey("m", key); }
};

TEST_F(ExtendTiedTest, AKeyThatComesLaterHasTheBytesOfItsGroup) {
  ASSERT_TRUE(node_.Load(TiedSpec({"src"})).ok());
  const uint64_t used = gpu().used;
  const absl::StatusOr<LoadReport> report = node_.Load(TiedSpec({"t1"}));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.missing_tied, 1);
  EXPECT_EQ(gpu().used, used);
  EXPECT_TRUE(Read("t1") == Stored("src"));
}

TEST_F(ExtendTiedTest, AKeyKeepsItsBytesWhenTheSourceComes) {
  ASSERT_TRUE(node_.Load(TiedSpec({"t1", "t2"})).ok());
  ASSERT_TRUE(Read("t1") == Stored("t2"));
  const absl::StatusOr<LoadReport> report = node_.Load(TiedSpec({"src"}));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.loaded, 2);
  EXPECT_TRUE(Read("t1") == Stored("t2"));
  EXPECT_TRUE(Read("src") == Stored("src"));
}

TEST_F(ExtendTiedTest, AManifestThatTiesOtherKeysIsRefusedByTheirNames) {
  ASSERT_TRUE(node_.Load(TiedSpec({"t1", "t2"})).ok());
  const absl::Status refused = node_.Load(TiedSpec({"src"}, {"t1"})).status();
  EXPECT_EQ(ErrorReason(refused), Reason::kModelExists);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("t1 has the bytes of t2 there, and would have those of src"));
  EXPECT_TRUE(Read("t1") == Stored("t2"));
  EXPECT_EQ(Info().state, ModelState::kResident);
}

TEST_F(ExtendTiedTest, AManifestThatTiesAKeyToNothingIsRefused) {
  ASSERT_TRUE(node_.Load(TiedSpec({"t1", "t2"})).ok());
  const absl::Status refused = node_.Load(TiedSpec({"src"}, {"t2"})).status();
  EXPECT_EQ(ErrorReason(refused), Reason::kModelExists);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("t1 has the bytes of t2 there, and would have none"));
}

TEST_F(ExtendTiedTest, EarlierConflictsAreStillCountedAndNamed) {
  ASSERT_EQ(node_.Load(TiedSpec({"src", "t2"}))->keys.tied_conflicts, 1);
  const absl::StatusOr<LoadReport> report = node_.Load(TiedSpec({"other"}));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->keys.tied_conflicts, 1);
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr("t2 is tied to src")));
  EXPECT_EQ(Info().model->LiveKeys().tied_conflicts, 1);
}

TEST_F(ExtendTiedTest, NewConflictsComeAfterTheEarlierOnes) {
  ASSERT_TRUE(node_.Load(TiedSpec({"src", "t2"})).ok());
  const absl::StatusOr<LoadReport> report = node_.Load(TiedSpec({"o*"}));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr("t2 is tied to src"), HasSubstr("o1 is tied to other")));
  EXPECT_EQ(Info().model->LiveKeys().tied_conflicts, 2);
}

}  // namespace
}  // namespace keyload
