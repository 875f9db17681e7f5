#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace keyload {

enum class OperationKind : uint8_t { kStack, kConcatenate, kChunk, kTranspose, kPermute };
// As in the contract: "STACK".
std::string_view OperationName(OperationKind kind);

// dims: one for kStack, kConcatenate and kChunk, two for kTranspose, all for kPermute. Negative ones count from the
// end.
struct ConversionOperation {
  OperationKind kind = OperationKind::kStack;
  std::vector<int64_t> dims;
};

// Stored keys that become other keys. Sources are patterns as transformers 5 writes them: "*." is anything up to a dot,
// a source that ends with a letter or digit ends at a word boundary, the rest is RE2, searched. What is found is
// replaced by a target, in which "\1" is a group.
struct Conversion {
  std::vector<std::string> sources;
  std::vector<std::string> targets;
  std::vector<ConversionOperation> operations;
};

// MANIFEST_INVALID, which names the conversion: no source, target or operation, over 1,024 of one of them, a
// target that comes twice, a wrong number of dims, or operations that do not end with one tensor for each target.
absl::Status CheckConversions(std::span<const Conversion> conversions);

// "conversion 2 (to mlp.experts.gate_up_proj)", for messages.
std::string ConversionLabel(const Conversion& conversion, size_t number);

}  // namespace keyload
