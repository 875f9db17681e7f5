#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace keyload {

// The border to libkeyload_tensor_torch.so, the only binary that needs LibTorch. The daemon opens it at the first
// conversion, because starting with LibTorch takes longer than a small load. Plain C types: neither exceptions nor
// LibTorch's symbols cross it.

inline constexpr char kTorchPluginFile[] = "libkeyload_tensor_torch.so";
inline constexpr char kTorchConvertSymbol[] =
    "keyload_tensor_torch_convert_1";  // the number changes with the signature

// Converts `elements` elements; `from` and `to` are DType values. Returns 0, or not 0 with a text that ends in '\0' in
// `error`. Thread-safe.
using TorchConvertFunction = int (*)(const void* source, int from, void* destination, int to, uint64_t elements,
                                     char* error, size_t error_size);

// Whether the plugin's file is there: beside the executable or in ../lib from it. Does not open it.
bool TorchPluginExists();

// Opens the plugin at the first call (some 0.3 s, blocking), and gives the same answer from then on; it is never
// closed. DTYPE_NOT_SUPPORTED when it is absent or does not open. Thread-safe.
absl::StatusOr<TorchConvertFunction> LoadTorchPlugin();

}  // namespace keyload
