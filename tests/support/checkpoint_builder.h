#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/checkpoint/dtype.h"

namespace keyload {

// Writes checkpoints for tests, whole ones and broken ones. Every function aborts the test binary with a message when
// the file system refuses.

// A fresh directory that is removed with its content. Its path has no symlink in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  // path() + "/" + name
  std::string File(std::string_view name) const;
  // Makes the directory `name` (parents too) and returns its path.
  std::string MakeDir(std::string_view name) const;

 private:
  std::string path_;
};

struct TestTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::string data;  // empty: PatternBytes(name, size of dtype and shape)
};

// Bytes that differ between names and along the tensor; the same in every run.
std::string PatternBytes(std::string_view name, uint64_t bytes);

// A valid header for `tensors`, laid out in the order given, padded to 8 bytes with spaces.
std::string SafetensorsHeader(const std::vector<TestTensor>& tensors);

// A valid safetensors file.
void WriteSafetensors(const std::string& path, const std::vector<TestTensor>& tensors);

// `header_length` (default: the header's size) as 8 bytes, `header_json`, `data`, as they are.
void WriteRaw(const std::string& path, std::string_view header_json, std::string_view data,
              std::optional<uint64_t> header_length = std::nullopt);

// {"metadata": {}, "weight_map": {key: shard, ...}} in the order given.
void WriteIndex(const std::string& path, const std::vector<std::pair<std::string, std::string>>& weight_map);

// One shard file per element, "model-00001-of-0000N.safetensors", and model.safetensors.index.json. Returns the file
// names.
std::vector<std::string> WriteShardedCheckpoint(const std::string& dir,
                                                const std::vector<std::vector<TestTensor>>& shards);

// As WriteShardedCheckpoint with U8 tensors "model.layers.SHARD.mlp.experts.TENSOR.weight" of `bytes_per_tensor`, whose
// data are holes in sparse files: terabytes cost nothing.
void WriteSparseCheckpoint(const std::string& dir, uint32_t shards, uint32_t tensors_per_shard,
                           uint64_t bytes_per_tensor);

void WriteFile(const std::string& path, std::string_view content);
std::string ReadFile(const std::string& path);

}  // namespace keyload
