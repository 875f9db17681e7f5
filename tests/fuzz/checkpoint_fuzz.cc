#include "tests/fuzz/checkpoint_fuzz.h"

#include <cstdint>
#include <cstdlib>

#include "server/checkpoint/index_file.h"
#include "server/checkpoint/json_checks.h"
#include "server/checkpoint/safetensors_header.h"

namespace keyload {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckHeader(const SafetensorsHeader& header, uint64_t file_size) {
  uint64_t end = header.data_offset;
  for (const StoredTensor& tensor : header.tensors) {
    Require(tensor.offset == end);
    const TensorSize size = ComputeTensorSize(tensor.dtype, tensor.shape);
    Require(!size.error && size.bytes == tensor.bytes);
    Require(KeyProblem(tensor.name) == nullptr);
    end += tensor.bytes;
  }
  Require(end == file_size);
}

}  // namespace

void FuzzSafetensorsHeader(std::string_view json) {
  const JsonBuffer buffer(json);
  for (uint64_t data_bytes : {0, 4, 16}) {
    const uint64_t file_size = kHeaderPrefixBytes + json.size() + data_bytes;
    const auto header = ParseSafetensorsHeader(buffer, file_size, "fuzz");
    if (header.ok()) CheckHeader(*header, file_size);
  }
}

void FuzzIndexFile(std::string_view json) {
  const auto index = ParseIndexFile(JsonBuffer(json), "fuzz");
  if (!index.ok()) return;
  for (size_t i = 0; i < index->shards.size(); ++i) {
    Require(FileNameProblem(index->shards[i]).empty());
    Require(i == 0 || index->shards[i - 1] < index->shards[i]);
  }
  for (const IndexFile::Entry& entry : index->entries) {
    Require(entry.shard < index->shards.size());
    Require(KeyProblem(entry.key) == nullptr);
  }
}

}  // namespace keyload
