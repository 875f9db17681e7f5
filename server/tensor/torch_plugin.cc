#include "server/tensor/torch_plugin.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "server/checkpoint/dtype.h"

namespace keyload {
namespace {

constexpr uint64_t kBounceElements = 128u << 10;  // at most 1 MiB of either type

at::ScalarType ScalarTypeOf(int dtype) {
  switch (static_cast<DType>(dtype)) {
    case DType::kF64:
      return at::kDouble;
    case DType::kF32:
      return at::kFloat;
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    default:
      throw std::invalid_argument("the type is not a float of 16 bits or more");
  }
}

bool IsAligned(const void* address, size_t alignment) { return reinterpret_cast<uintptr_t>(address) % alignment == 0; }

// REQUIRES: both addresses are aligned.
void ConvertAligned(const void* source, at::ScalarType from, void* destination, at::ScalarType to, uint64_t elements) {
  const int64_t size = static_cast<int64_t>(elements);
  const at::Tensor input = at::from_blob(const_cast<void*>(source), {size}, at::TensorOptions(from));
  at::from_blob(destination, {size}, at::TensorOptions(to)).copy_(input);
}

void Convert(const void* source, at::ScalarType from, void* destination, at::ScalarType to, uint64_t elements) {
  const size_t from_size = c10::elementSize(from);
  const size_t to_size = c10::elementSize(to);
  const bool bounce_in = !IsAligned(source, from_size);
  const bool bounce_out = !IsAligned(destination, to_size);
  if (!bounce_in && !bounce_out) return ConvertAligned(source, from, destination, to, elements);
  const uint64_t block = std::min(elements, kBounceElements);
  std::vector<double> input(bounce_in ? (block * from_size + 7) / 8 : 0);  // aligned for every type here
  std::vector<double> output(bounce_out ? (block * to_size + 7) / 8 : 0);
  for (uint64_t done = 0; done < elements; done += block) {
    const uint64_t count = std::min(block, elements - done);
    const std::byte* const in = static_cast<const std::byte*>(source) + done * from_size;
    std::byte* const out = static_cast<std::byte*>(destination) + done * to_size;
    if (bounce_in) std::memcpy(input.data(), in, count * from_size);
    ConvertAligned(bounce_in ? static_cast<const void*>(input.data()) : in, from,
                   bounce_out ? static_cast<void*>(output.data()) : out, to, count);
    if (bounce_out) std::memcpy(out, output.data(), count * to_size);
  }
}

}  // namespace
}  // namespace keyload

extern "C" __attribute__((visibility("default"))) int keyload_tensor_torch_convert_1(const void* source, int from,
                                                                                     void* destination, int to,
                                                                                     uint64_t elements, char* error,
                                                                                     size_t error_size) {
  try {
    // Loads have threads of their own; a pool inside would only compete with them.
    static std::once_flag once;
    std::call_once(once, [] { at::set_num_threads(1); });
    const c10::InferenceMode guard;
    keyload::Convert(source, keyload::ScalarTypeOf(from), destination, keyload::ScalarTypeOf(to), elements);
    return 0;
  } catch (const std::exception& exception) {  // c10::Error is one
    std::snprintf(error, error_size, "%s", exception.what());
  } catch (...) {
    std::snprintf(error, error_size, "unknown exception");
  }
  return 1;
}
