#include "server/service/model_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::ElementsAre;

// One model with a key in every state that a key can be listed in.
class ModelKeysTest : public testing::Test {
 protected:
  ModelKeysTest() {
    const auto tensor = [](std::string name, Shape shape) {
      return TestTensor{.name = std::move(name), .dtype = DType::kF32, .shape = std::move(shape), .data = ""};
    };
    WriteSafetensors(node_.dir() + "/model.safetensors",
                     {tensor("resident.2", {4}), tensor("resident.10", {4}), tensor("lazy", {8}), tensor("wrong", {3}),
                      tensor("extra", {5}), tensor("noise", {5}), tensor("skipped", {4})});
    auto manifest = std::make_shared<Manifest>(
        *ManifestOf({"resident.10", "resident.2", "lazy", "wrong", "absent", "optional", "skipped", "tied"}, {4},
                    {{"resident.2", {"tied"}}}));
    for (TensorSpec& spec : manifest->tensors) {
      if (spec.name == "lazy") spec.shape = {8};
    }
    TensorSpec buffer;
    buffer.name = "positions";
    buffer.kind = TensorKind::kNonPersistentBuffer;
    buffer.shape = {4};
    manifest->tensors.push_back(buffer);
    EXPECT_TRUE(ValidateManifest(*manifest).ok());
    LoadSpec spec = node_.Spec();
    spec.expected.manifest = manifest;
    spec.rules.ignore_missing = {"^optional$"};
    spec.rules.ignore_unexpected = {"^noise$"};
    spec.select.exclude = {"skipped"};
    spec.device_map.policy.clear();
    spec.device_map.entries = {{"", "cuda:0"}, {"lazy", "disk"}};
    const absl::StatusOr<LoadReport> report = node_.Load(spec);
    EXPECT_TRUE(report.ok()) << report.status();
    model_ = node_.registry().Use("m").value();
  }

  static KeySelection Select(const KeySelectionSpec& spec) { return *KeySelection::Compile(spec); }

  ListedKey Find(std::string_view key) const {
    const std::vector<ListedKey> keys = ListKeys(*model_, KeySelection()).value();
    for (const ListedKey& listed : keys) {
      if (listed.key == key) return listed;
    }
    ADD_FAILURE() << key << " is not listed";
    return {};
  }

  static std::vector<std::string> Names(const std::vector<ListedKey>& keys) {
    std::vector<std::string> names;
    for (const ListedKey& key : keys) names.emplace_back(key.key);
    return names;
  }

  LoaderNode node_;
  ModelHandle model_;
};

TEST_F(ModelKeysTest, ListsExpectedAndUnexpectedInNaturalOrderWithoutNonPersistentBuffers) {
  EXPECT_THAT(Names(ListKeys(*model_, KeySelection()).value()),
              ElementsAre("absent", "extra", "lazy", "noise", "optional", "resident.2", "resident.10", "skipped",
                          "tied", "wrong"));
}

TEST_F(ModelKeysTest, EveryKeyHasItsState) {
  EXPECT_EQ(Find("resident.2").state, ListedState::kResident);
  EXPECT_EQ(Find("lazy").state, ListedState::kLazy);
  EXPECT_EQ(Find("absent").state, ListedState::kMissing);
  EXPECT_EQ(Find("extra").state, ListedState::kUnexpected);
  EXPECT_EQ(Find("wrong").state, ListedState::kMismatched);
  EXPECT_EQ(Find("optional").state, ListedState::kIgnored);
  EXPECT_EQ(Find("noise").state, ListedState::kIgnored);
  EXPECT_EQ(Find("skipped").state, ListedState::kNotSelected);
  EXPECT_EQ(Find("tied").state, ListedState::kResident);
}

TEST_F(ModelKeysTest, AResidentKeySaysWhereItsBytesAre) {
  const ListedKey key = Find("resident.10");
  EXPECT_EQ(key.dtype, DType::kF32);
  EXPECT_THAT(key.shape, ElementsAre(4));
  EXPECT_EQ(key.device, "cuda:0");
  EXPECT_EQ(key.shard, "model.safetensors");
  EXPECT_GT(key.file_offset, 0);
  EXPECT_EQ(key.bytes, 16);
  EXPECT_EQ(key.tied_to, "");
}

TEST_F(ModelKeysTest, ALazyKeyIsOnDisk) { EXPECT_EQ(Find("lazy").device, "disk"); }

TEST_F(ModelKeysTest, ATiedKeyNamesWhoSuppliesIt) {
  EXPECT_EQ(Find("tied").tied_to, "resident.2");
  EXPECT_EQ(Find("tied").file_offset, Find("resident.2").file_offset);
}

TEST_F(ModelKeysTest, AMissingKeyHasAPlaceButNoShard) {
  EXPECT_EQ(Find("absent").device, "cuda:0");
  EXPECT_EQ(Find("absent").shard, "");
  EXPECT_EQ(Find("absent").bytes, 16);
}

TEST_F(ModelKeysTest, AnUnexpectedKeyHasAShardButNoPlace) {
  const ListedKey key = Find("extra");
  EXPECT_EQ(key.device, "");
  EXPECT_EQ(key.shard, "model.safetensors");
  EXPECT_EQ(key.index, -1);
  EXPECT_EQ(key.bytes, 20);
}

TEST_F(ModelKeysTest, AMismatchedKeyShowsTheExpectedShape) { EXPECT_THAT(Find("wrong").shape, ElementsAre(4)); }

TEST_F(ModelKeysTest, ASelectionListsWhatItSelects) {
  EXPECT_THAT(Names(*ListKeys(*model_, Select({.include = {"resident.*", "extra"}, .exclude = {"*.10"}, .keys = {}}))),
              ElementsAre("extra", "resident.2"));
}

TEST_F(ModelKeysTest, EverythingWithBytesIsReadWhenNothingIsNamed) {
  const absl::StatusOr<std::vector<ListedKey>> keys = KeysToRead(*model_, KeySelection());
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_THAT(Names(*keys), ElementsAre("lazy", "resident.2", "resident.10", "tied"));
}

TEST_F(ModelKeysTest, AGlobPassesOverKeysWithoutBytes) {
  const absl::StatusOr<std::vector<ListedKey>> keys =
      KeysToRead(*model_, Select({.include = {"*a*"}, .exclude = {}, .keys = {}}));
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_THAT(Names(*keys), ElementsAre("lazy"));
}

TEST_F(ModelKeysTest, ANamedKeyThatTheModelLacksIsAnError) {
  const absl::Status status =
      KeysToRead(*model_, Select({.include = {}, .exclude = {}, .keys = {"resident.2", "nowhere"}})).status();
  EXPECT_EQ(ErrorReason(status), Reason::kKeyNotFound);
  EXPECT_EQ(ErrorDetails(status)["key"], "nowhere");
}

TEST_F(ModelKeysTest, ANamedUnexpectedKeyIsNotOfTheModel) {
  EXPECT_EQ(ErrorReason(KeysToRead(*model_, Select({.include = {}, .exclude = {}, .keys = {"extra"}})).status()),
            Reason::kKeyNotFound);
}

class NamedKeyWithoutBytes : public ModelKeysTest, public testing::WithParamInterface<const char*> {};

TEST_P(NamedKeyWithoutBytes, IsNotResident) {
  const absl::Status status =
      KeysToRead(*model_, Select({.include = {}, .exclude = {}, .keys = {GetParam()}})).status();
  EXPECT_EQ(ErrorReason(status), Reason::kKeyNotResident);
  EXPECT_EQ(ErrorDetails(status)["key"], GetParam());
}

INSTANTIATE_TEST_SUITE_P(All, NamedKeyWithoutBytes,
                         testing::Values("absent", "optional", "wrong", "skipped", "positions"));

}  // namespace
}  // namespace keyload
