#include "server/tensor/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <ostream>
#include <vector>

#include "server/base/error.h"

namespace keyload {
namespace {

// A reference of our own: a 16-bit float with `mantissa_bits`, rounded to nearest even by integer arithmetic, from the
// exact value of a double. NaN is returned as 0xffff; tests treat NaN apart.
uint16_t RoundToHalfWidth(double value, int mantissa_bits) {
  const int exponent_bits = 15 - mantissa_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const uint16_t infinity = static_cast<uint16_t>(sign | (((1 << exponent_bits) - 1) << mantissa_bits));
  if (std::isnan(value)) return 0xffff;
  if (std::isinf(value)) return infinity;
  if (value == 0) return sign;
  const int exponent = std::max(std::ilogb(value), 1 - bias);  // of the step below the leading bit; fixed for denormals
  const double steps = std::ldexp(std::fabs(value), mantissa_bits - exponent);  // exact: only the exponent changes
  double whole = std::floor(steps);
  const double rest = steps - whole;
  if (rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2) == 1)) whole += 1;
  // Carries run from the mantissa into the exponent by themselves.
  const uint64_t bits = static_cast<uint64_t>(whole) + (static_cast<uint64_t>(exponent + bias - 1) << mantissa_bits);
  return bits >= (infinity & 0x7fffu) ? infinity : static_cast<uint16_t>(sign | bits);
}

double FromHalfWidth(uint16_t bits, int mantissa_bits) {
  const int bias = (1 << (14 - mantissa_bits)) - 1;
  const int exponent = (bits & 0x7fff) >> mantissa_bits;
  const double mantissa = bits & ((1 << mantissa_bits) - 1);
  double value;
  if (exponent == 2 * bias + 1) {
    value = mantissa == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    value = std::ldexp(mantissa, 1 - bias - mantissa_bits);
  } else {
    value = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

template <typename To, typename From>
std::vector<To> Convert(const std::vector<From>& source, DType from, DType to) {
  std::vector<To> destination(source.size());
  const absl::Status status =
      ConvertElements(std::as_bytes(std::span(source)), from, std::as_writable_bytes(std::span(destination)), to);
  EXPECT_TRUE(status.ok()) << status;
  return destination;
}

struct HalfType {
  DType dtype;
  int mantissa_bits;
};
void PrintTo(const HalfType& tested, std::ostream* out) { *out << DTypeName(tested.dtype); }
class HalfWidthTest : public testing::TestWithParam<HalfType> {
 protected:
  bool IsNan(uint16_t bits) const { return std::isnan(FromHalfWidth(bits, GetParam().mantissa_bits)); }
};

// Every float of 16 bits, its neighbours in F32, and the ties between it and the next.
std::vector<float> InterestingFloats(int mantissa_bits) {
  std::vector<float> values;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = static_cast<float>(FromHalfWidth(static_cast<uint16_t>(bits), mantissa_bits));
    const float next = static_cast<float>(FromHalfWidth(static_cast<uint16_t>(bits + 1), mantissa_bits));
    const float tie = static_cast<float>((static_cast<double>(value) + next) / 2);
    for (const float base : {value, tie}) {
      for (const float direction : {-INFINITY, base, INFINITY}) values.push_back(std::nextafter(base, direction));
    }
  }
  for (const uint32_t bits : {0x00000001u, 0x007fffffu, 0x80000001u, 0x7f7fffffu, 0xff7fffffu, 0x477fefffu, 0x477ff000u,
                              0x33000000u, 0x33000001u, 0x7f7f7fffu, 0x7f7f8000u}) {
    values.push_back(std::bit_cast<float>(bits));
  }
  return values;
}

TEST_P(HalfWidthTest, F32RoundsToNearestEven) {
  const std::vector<float> values = InterestingFloats(GetParam().mantissa_bits);
  const std::vector<uint16_t> got = Convert<uint16_t>(values, DType::kF32, GetParam().dtype);
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i])) {
      ASSERT_TRUE(IsNan(got[i])) << i;
    } else {
      ASSERT_EQ(got[i], RoundToHalfWidth(values[i], GetParam().mantissa_bits)) << values[i];
    }
  }
}

TEST_P(HalfWidthTest, F64GoesThroughF32AsTorchDoes) {
  std::vector<double> values;
  for (const float value : InterestingFloats(GetParam().mantissa_bits)) {
    values.push_back(value);
    values.push_back(std::nextafter(static_cast<double>(value), INFINITY));
  }
  const std::vector<uint16_t> got = Convert<uint16_t>(values, DType::kF64, GetParam().dtype);
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i])) continue;
    ASSERT_EQ(got[i], RoundToHalfWidth(static_cast<float>(values[i]), GetParam().mantissa_bits)) << values[i];
  }
}

TEST_P(HalfWidthTest, WideningIsExactAndReversible) {
  std::vector<uint16_t> all(0x10000);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  const std::vector<float> wide = Convert<float>(all, GetParam().dtype, DType::kF32);
  const std::vector<double> wider = Convert<double>(all, GetParam().dtype, DType::kF64);
  const std::vector<uint16_t> back = Convert<uint16_t>(wide, DType::kF32, GetParam().dtype);
  for (size_t i = 0; i < all.size(); ++i) {
    if (IsNan(all[i])) {
      ASSERT_TRUE(std::isnan(wide[i]) && std::isnan(wider[i]) && IsNan(back[i])) << i;
      continue;
    }
    const double expected = FromHalfWidth(all[i], GetParam().mantissa_bits);
    ASSERT_EQ(std::bit_cast<uint64_t>(static_cast<double>(wide[i])), std::bit_cast<uint64_t>(expected)) << i;
    ASSERT_EQ(std::bit_cast<uint64_t>(wider[i]), std::bit_cast<uint64_t>(expected)) << i;
    ASSERT_EQ(back[i], all[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, HalfWidthTest, testing::Values(HalfType{DType::kF16, 10}, HalfType{DType::kBF16, 7}),
                         [](const auto& tested) {
                           return std::string(tested.param.dtype == DType::kF16 ? "F16" : "BF16");
                         });

TEST(ConvertTest, F64ToF32RoundsAsTheProcessorDoes) {
  const std::vector<double> values = {0.1,      -0.1,      1e300, -1e300, 1e-300, 5e-324, 1.00000005960464477,
                                      INFINITY, -INFINITY, -0.0};
  const std::vector<float> got = Convert<float>(values, DType::kF64, DType::kF32);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(static_cast<float>(values[i]))) << values[i];
  }
}

TEST(ConvertTest, UnalignedBytesGiveTheSameResult) {
  constexpr size_t kElements = 300'001;  // more than two of the inner blocks
  std::vector<float> values(kElements);
  for (size_t i = 0; i < kElements; ++i) values[i] = static_cast<float>(i) * 0.37f - 1000;
  const std::vector<uint16_t> expected = Convert<uint16_t>(values, DType::kF32, DType::kBF16);
  for (const auto& [in, out] : {std::pair{1, 0}, std::pair{0, 1}, std::pair{3, 1}}) {
    std::vector<std::byte> source(kElements * 4 + in);
    std::vector<std::byte> destination(kElements * 2 + out);
    std::memcpy(source.data() + in, values.data(), kElements * 4);
    ASSERT_TRUE(
        ConvertElements(std::span(source).subspan(in), DType::kF32, std::span(destination).subspan(out), DType::kBF16)
            .ok());
    EXPECT_EQ(std::memcmp(destination.data() + out, expected.data(), kElements * 2), 0) << in << " " << out;
  }
}

TEST(ConvertTest, TheSameTypeIsCopied) {
  const std::vector<uint32_t> patterns = {0x7f800001u, 0xffc12345u, 1u};  // NaN payloads stay
  EXPECT_EQ((Convert<uint32_t>(patterns, DType::kF32, DType::kF32)), patterns);
}

TEST(ConvertTest, OtherTypesAreRefusedByName) {
  std::vector<std::byte> bytes(8);
  for (const auto& [from, to] : {std::pair{DType::kI32, DType::kF32}, std::pair{DType::kF32, DType::kF8E4M3}}) {
    EXPECT_EQ(ErrorReason(ConvertElements(bytes, from, bytes, to)), Reason::kDtypeNotSupported);
  }
}

TEST(ConvertTest, SizesThatDisagreeAreRefused) {
  std::vector<std::byte> source(8), destination(6);
  EXPECT_FALSE(ConvertElements(source, DType::kF32, destination, DType::kF16).ok());
}

TEST(ConvertTest, LargeConversionsStartNoThreads) {
  const auto threads = [] {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return std::distance(begin(tasks), end(tasks));
  };
  ASSERT_TRUE(DTypeConversionAvailable());
  const auto before = threads();
  Convert<uint16_t>(std::vector<float>(8 << 20), DType::kF32, DType::kBF16);
  EXPECT_EQ(threads(), before);
}

}  // namespace
}  // namespace keyload
