#pragma once

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "server/checkpoint/dtype.h"

namespace keyload {

// True when this build can convert at all (LibTorch is linked in).
bool DTypeConversionAvailable();

// True for the types that `dtype` on load converts between: F64, F32, F16, BF16. Everything else keeps its stored type:
// integers and booleans, and the 8-, 6- and 4-bit floats, whose values mean nothing without their scales.
bool IsConvertible(DType dtype);

// Converts `source` (elements of `from`, any alignment) into `destination` (the same number of elements of `to`, any
// alignment), bit for bit as torch.Tensor.to does. Thread-safe; single-threaded inside. DTYPE_NOT_SUPPORTED for types
// that are not convertible or a build without LibTorch; REQUIRES: the sizes agree and source holds whole elements.
absl::Status ConvertElements(std::span<const std::byte> source, DType from, std::span<std::byte> destination, DType to);

}  // namespace keyload
