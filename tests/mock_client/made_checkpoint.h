#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace keyload::mock {

// A family of tensors of one shape. "#" in `name` is replaced by 0 .. count-1.
struct TensorFamily {
  std::string name;
  uint64_t count = 1;
  std::string dtype;
  std::vector<uint64_t> shape;
};

struct NamedTensor {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  uint64_t bytes = 0;
};

// [{"name", "count", "dtype", "shape"}, ...]
absl::StatusOr<std::vector<TensorFamily>> ParseFamilies(const nlohmann::json* list, const std::string& where);

// Family by family, in the order of their numbers.
std::vector<NamedTensor> Expand(const std::vector<TensorFamily>& families);

// Writes `tensors` as a sharded checkpoint with an index (one shard: a plain model.safetensors) into the directory
// `path`, which it creates. Shards hold runs of tensors. Readable by every user: the daemon may be another one.
absl::Status WriteCheckpoint(const std::string& path, const std::vector<NamedTensor>& tensors, uint64_t shards);

// `bytes` bytes from `offset` on of the tensor `name` of any checkpoint made here: a function of the name alone.
// `offset` is a multiple of 8.
std::string TensorContent(std::string_view name, uint64_t offset, uint64_t bytes);

}  // namespace keyload::mock
