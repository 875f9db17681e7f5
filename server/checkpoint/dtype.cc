#include "server/checkpoint/dtype.h"

#include <iterator>

namespace keyload {
namespace {

struct DTypeEntry {
  DType dtype;
  std::string_view name;
  uint32_t bits;
  uint32_t alignment;
};

constexpr DTypeEntry kDTypes[] = {
    {DType::kBool, "BOOL", 8, 1},
    {DType::kF4, "F4", 4, 1},
    {DType::kF6E2M3, "F6_E2M3", 6, 1},
    {DType::kF6E3M2, "F6_E3M2", 6, 1},
    {DType::kU8, "U8", 8, 1},
    {DType::kI8, "I8", 8, 1},
    {DType::kF8E5M2, "F8_E5M2", 8, 1},
    {DType::kF8E4M3, "F8_E4M3", 8, 1},
    {DType::kF8E8M0, "F8_E8M0", 8, 1},
    {DType::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8, 1},
    {DType::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8, 1},
    {DType::kI16, "I16", 16, 2},
    {DType::kU16, "U16", 16, 2},
    {DType::kF16, "F16", 16, 2},
    {DType::kBF16, "BF16", 16, 2},
    {DType::kI32, "I32", 32, 4},
    {DType::kU32, "U32", 32, 4},
    {DType::kF32, "F32", 32, 4},
    {DType::kC64, "C64", 64, 4},
    {DType::kF64, "F64", 64, 8},
    {DType::kI64, "I64", 64, 8},
    {DType::kU64, "U64", 64, 8},
};
static_assert(std::size(kDTypes) == kDTypeCount);

constexpr bool IsInEnumOrder() {
  for (size_t i = 0; i < std::size(kDTypes); ++i) {
    if (static_cast<size_t>(kDTypes[i].dtype) != i) return false;
  }
  return true;
}
static_assert(IsInEnumOrder());

const DTypeEntry& Entry(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

}  // namespace

std::string_view DTypeName(DType dtype) { return Entry(dtype).name; }
uint32_t DTypeBits(DType dtype) { return Entry(dtype).bits; }
uint32_t DTypeAlignment(DType dtype) { return Entry(dtype).alignment; }

std::optional<DType> ParseDType(std::string_view name) {
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.name == name) return entry.dtype;
  }
  return std::nullopt;
}

TensorSize ComputeTensorSize(DType dtype, std::span<const uint64_t> shape) {
  uint64_t bits = 1;
  for (uint64_t dimension : shape) {
    if (__builtin_mul_overflow(bits, dimension, &bits)) return {.error = TensorSizeError::kOverflow};
  }
  if (__builtin_mul_overflow(bits, uint64_t{DTypeBits(dtype)}, &bits)) return {.error = TensorSizeError::kOverflow};
  if (bits % 8 != 0) return {.error = TensorSizeError::kMisaligned};
  return {.bytes = bits / 8, .error = std::nullopt};
}

}  // namespace keyload
