#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/plan/plan_case.h"

namespace keyload {
namespace {

TEST(MakePlacementInput, SizesFollowTheWantedDType) {
  const auto keys = MakeKeyReport(
      {{.name = "a", .dtype = DType::kF16, .elements = 8}, {.name = "b", .dtype = DType::kI64, .elements = 8}});
  const PlacementInput input = MakePlacementInput(*keys, {.wanted = DType::kF32}, {});
  EXPECT_EQ(input.model.tensors[0].bytes, 32);
  EXPECT_EQ(input.dtypes[0], DType::kF32);
  EXPECT_EQ(input.model.tensors[1].bytes, 64) << "integers keep their type";
  EXPECT_EQ(input.dtypes[1], DType::kI64);
}

TEST(MakePlacementInput, QuantisedFloatsKeepTheirType) {
  const auto keys = MakeKeyReport({{.name = "a", .dtype = DType::kF8E4M3, .elements = 8}});
  EXPECT_EQ(MakePlacementInput(*keys, {.wanted = DType::kBF16}, {}).dtypes[0], DType::kF8E4M3);
}

TEST(MakePlacementInput, KeepInFp32IsAWholeComponentAndOnlyFor16BitTypes) {
  const auto keys = MakeKeyReport({{.name = "m.router.w", .dtype = DType::kF32, .elements = 1},
                                   {.name = "m.router2.w", .dtype = DType::kF32, .elements = 1}});
  const DTypeRequest half = {.wanted = DType::kF16, .keep_in_fp32 = {"router"}};
  EXPECT_THAT(MakePlacementInput(*keys, half, {}).dtypes, testing::ElementsAre(DType::kF32, DType::kF16));
  const DTypeRequest wide = {.wanted = DType::kF64, .keep_in_fp32 = {"router"}};
  EXPECT_THAT(MakePlacementInput(*keys, wide, {}).dtypes, testing::ElementsAre(DType::kF64, DType::kF64));
}

TEST(MakePlacementInput, LeavesOutWhatIsNotSelected) {
  auto keys = std::make_shared<KeyReport>();
  const auto all = MakeKeyReport({{.name = "a", .elements = 1}, {.name = "b", .elements = 2}});
  keys->index = all->index;
  keys->keys = all->keys;
  keys->keys[0].state = KeyState::kNotSelected;
  EXPECT_THAT(MakePlacementInput(*keys, {}, {}).keys, testing::ElementsAre(1));
}

TEST(MakePlacementInput, MissingKeysTakeTheirExpectedSize) {
  auto keys = std::make_shared<KeyReport>();
  keys->index = MakeKeyReport({})->index;
  keys->keys.push_back({.name = "a", .bytes = 12, .state = KeyState::kMissing, .dtype = DType::kF32});
  EXPECT_EQ(MakePlacementInput(*keys, {.wanted = DType::kBF16}, {}).model.tensors[0].bytes, 6);
}

}  // namespace
}  // namespace keyload
