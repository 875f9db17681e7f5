#include "server/checkpoint/dtype.h"

#include <gtest/gtest.h>

namespace keyload {
namespace {

TEST(DTypeTest, EveryTypeIsFoundByItsName) {
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(ParseDType(DTypeName(dtype)), dtype) << DTypeName(dtype);
  }
}

TEST(DTypeTest, UnknownAndLowerCaseNamesAreRefused) {
  for (const char* name : {"", "f32", "C128", "F8", "F32 "}) EXPECT_EQ(ParseDType(name), std::nullopt) << name;
}

TEST(DTypeTest, ComplexAlignsAsItsParts) {
  EXPECT_EQ(DTypeBits(DType::kC64), 64u);
  EXPECT_EQ(DTypeAlignment(DType::kC64), 4u);
}

TEST(TensorSizeTest, RankZeroHasOneElement) { EXPECT_EQ(ComputeTensorSize(DType::kF32, {}).bytes, 4u); }

TEST(TensorSizeTest, AnyZeroDimensionMakesItEmpty) {
  const Shape shape = {5, 0, 7};
  EXPECT_EQ(ComputeTensorSize(DType::kF64, shape).bytes, 0u);
  EXPECT_EQ(ComputeTensorSize(DType::kF64, shape).error, std::nullopt);
}

TEST(TensorSizeTest, SubByteTypesArePacked) {
  EXPECT_EQ(ComputeTensorSize(DType::kF4, Shape{2, 4}).bytes, 4u);
  EXPECT_EQ(ComputeTensorSize(DType::kF6E2M3, Shape{4}).bytes, 3u);
  EXPECT_EQ(ComputeTensorSize(DType::kF6E2M3, Shape{3}).error, TensorSizeError::kMisaligned);
}

TEST(TensorSizeTest, ProductsAndBitsThatOverflowAreErrors) {
  EXPECT_EQ(ComputeTensorSize(DType::kU8, Shape{uint64_t{1} << 32, uint64_t{1} << 32}).error,
            TensorSizeError::kOverflow);
  EXPECT_EQ(ComputeTensorSize(DType::kU8, Shape{uint64_t{1} << 61}).error, TensorSizeError::kOverflow);
}

}  // namespace
}  // namespace keyload
