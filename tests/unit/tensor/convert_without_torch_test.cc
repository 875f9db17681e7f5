#include <gtest/gtest.h>

#include <array>

#include "server/base/error.h"
#include "server/tensor/convert.h"

namespace keyload {
namespace {

TEST(ConvertWithoutTorchTest, ConversionIsRefusedByName) {
  EXPECT_FALSE(DTypeConversionAvailable());
  const std::array<std::byte, 8> source = {};
  std::array<std::byte, 4> destination = {};
  const absl::Status status = ConvertElements(source, DType::kF32, destination, DType::kF16);
  EXPECT_EQ(ErrorReason(status), Reason::kDtypeNotSupported) << status;
}

}  // namespace
}  // namespace keyload
