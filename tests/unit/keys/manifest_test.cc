#include "server/keys/manifest.h"

#include "gtest/gtest.h"
#include "server/base/error.h"
#include "tests/unit/keys/reconcile_case.h"

namespace keyload {
namespace {

TEST(Manifest, FillsSizes) {
  Manifest manifest{.tensors = {Parameter("a", {3, 4}, DType::kBF16), Parameter("scalar", {}, DType::kF64),
                                Parameter("empty", {0, 4})}};
  ASSERT_TRUE(ValidateManifest(manifest).ok());
  EXPECT_EQ(manifest.tensors[0].bytes, 24u);
  EXPECT_EQ(manifest.tensors[1].bytes, 8u);
  EXPECT_EQ(manifest.tensors[2].bytes, 0u);
}

void ExpectInvalid(Manifest manifest, const std::string& key) {
  const absl::Status status = ValidateManifest(manifest);
  EXPECT_EQ(ErrorReason(status), Reason::kManifestInvalid) << status;
  EXPECT_EQ(ErrorDetails(status)["key"], key);
}

TEST(Manifest, RefusesDuplicateNames) { ExpectInvalid({.tensors = Parameters({"a", "b", "a"})}, "a"); }
TEST(Manifest, BoundsItsTensors) {
  Manifest manifest{.tensors = Parameters({"a", "b", "c"})};
  EXPECT_TRUE(ValidateManifest(manifest, 3).ok());
  EXPECT_EQ(ErrorReason(ValidateManifest(manifest, 2)), Reason::kManifestInvalid);
}
TEST(Manifest, RefusesEmptyNames) { ExpectInvalid({.tensors = Parameters({"a", ""})}, ""); }
TEST(Manifest, RefusesNamesThatNoCheckpointHas) {
  for (const std::string& name : {std::string("a\0b", 3), std::string("\xff"), std::string(5000, 'x')}) {
    Manifest manifest = {.tensors = Parameters({name})};
    EXPECT_EQ(ErrorReason(ValidateManifest(manifest)), Reason::kManifestInvalid);
  }
}
TEST(Manifest, RefusesModulesWithoutANameOfTheirOwn) {
  ExpectInvalid({.modules = {{.name = "m"}, {.name = "n"}, {.name = "m"}}}, "m");
  ExpectInvalid({.modules = {{.name = "m"}, {.name = ""}}}, "");
}
TEST(Manifest, RefusesAShapeThatOverflows) {
  ExpectInvalid({.tensors = {Parameter("a", {uint64_t{1} << 63, 2})}}, "a");
}
TEST(Manifest, RefusesATotalThatOverflows) {
  Manifest manifest;
  for (int i = 0; i < 16; ++i) {
    manifest.tensors.push_back(Parameter("t" + std::to_string(i), {uint64_t{1} << 60}, DType::kU8));
  }
  ExpectInvalid(manifest, "t15");
}
TEST(Manifest, RefusesSubByteElementsThatDoNotFillBytes) {
  ExpectInvalid({.tensors = {Parameter("a", {3}, DType::kF4)}}, "a");
}
TEST(Manifest, RefusesTiedNamesThatAreNoTensors) {
  ExpectInvalid({.tensors = Parameters({"a"}), .tied_groups = {{"a", {"b"}}}}, "b");
  ExpectInvalid({.tensors = Parameters({"a"}), .tied_groups = {{"c", {"a"}}}}, "c");
}
TEST(Manifest, RefusesANameInTwoTiedGroups) {
  ExpectInvalid({.tensors = Parameters({"a", "b", "c"}), .tied_groups = {{"a", {"b"}}, {"c", {"b"}}}}, "b");
  ExpectInvalid({.tensors = Parameters({"a", "b"}), .tied_groups = {{"a", {"b", "a"}}}}, "a");
}
TEST(Manifest, RefusesTiedTensorsThatCannotShareMemory) {
  ExpectInvalid({.tensors = {Parameter("a", {2}), Parameter("b", {3})}, .tied_groups = {{"a", {"b"}}}}, "b");
  ExpectInvalid({.tensors = {Parameter("a"), Parameter("b", {2}, DType::kI32)}, .tied_groups = {{"a", {"b"}}}}, "b");
}

}  // namespace
}  // namespace keyload
