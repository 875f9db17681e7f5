#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "absl/container/inlined_vector.h"

namespace keyload {

// The 22 element types of the safetensors format, by its names ("F32", "F8_E4M3"). Sub-byte types are packed.
enum class DType : uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};
inline constexpr int kDTypeCount = 22;

// Elements per dimension, outermost first. Empty: rank 0, one element. Any 0: no element.
using Shape = absl::InlinedVector<uint64_t, 4>;
// What a shape takes of the heap, as only a long one does.
inline uint64_t HeapOf(const Shape& shape) {
  return shape.capacity() > Shape().capacity() ? shape.capacity() * sizeof(uint64_t) : 0;
}

std::string_view DTypeName(DType dtype);
std::optional<DType> ParseDType(std::string_view name);
uint32_t DTypeBits(DType dtype);
// Bytes that an element's address must be a multiple of; 1 for sub-byte types. C64 aligns as its F32 parts do: 4.
uint32_t DTypeAlignment(DType dtype);

// Size of a dense tensor. kOverflow: a product exceeds 64 bits. kMisaligned: sub-byte elements do not fill whole bytes.
enum class TensorSizeError { kOverflow, kMisaligned };
struct TensorSize {
  uint64_t bytes = 0;
  std::optional<TensorSizeError> error;
};
TensorSize ComputeTensorSize(DType dtype, std::span<const uint64_t> shape);

}  // namespace keyload
