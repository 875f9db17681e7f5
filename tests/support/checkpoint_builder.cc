#include "tests/support/checkpoint_builder.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/log.h"

namespace keyload {
namespace {

[[noreturn]] void Die(std::string_view what, std::string_view path) {
  std::cerr << "checkpoint_builder: " << what << ": " << path << std::endl;
  std::abort();
}

uint64_t SizeOf(const TestTensor& tensor) {
  const TensorSize size = ComputeTensorSize(tensor.dtype, tensor.shape);
  if (size.error) Die("a tensor without a size", tensor.name);
  return size.bytes;
}

std::string LengthPrefix(uint64_t length) {
  std::string prefix(8, '\0');
  for (int i = 0; i < 8; ++i) prefix[i] = static_cast<char>(length >> (8 * i));
  return prefix;
}

std::string ShardName(size_t shard, size_t shards) {
  return absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, shards);
}

}  // namespace

TempDir::TempDir() {
  std::error_code error;
  std::filesystem::path base = std::filesystem::canonical(std::filesystem::temp_directory_path(error), error);
  if (error) Die(error.message(), "temporary directory");
  std::string pattern = (base / "keyload-test-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) Die("mkdtemp", pattern);
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::File(std::string_view name) const { return absl::StrFormat("%s/%s", path_, name); }

std::string TempDir::MakeDir(std::string_view name) const {
  std::error_code error;
  std::filesystem::create_directories(File(name), error);
  if (error) Die(error.message(), File(name));
  return File(name);
}

std::string PatternBytes(std::string_view name, uint64_t bytes) {
  uint64_t state = 0x9e3779b97f4a7c15;
  for (char c : name) state = (state ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  std::string data(bytes, '\0');
  for (char& byte : data) {
    state = state * 6364136223846793005 + 1442695040888963407;
    byte = static_cast<char>(state >> 56);
  }
  return data;
}

std::string SafetensorsHeader(const std::vector<TestTensor>& tensors) {
  std::vector<std::string> entries;
  entries.reserve(tensors.size());
  uint64_t offset = 0;
  for (const TestTensor& tensor : tensors) {
    const uint64_t end = offset + SizeOf(tensor);
    entries.push_back(absl::StrFormat(R"(%s:{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]})",
                                      JsonString(tensor.name), DTypeName(tensor.dtype),
                                      absl::StrJoin(tensor.shape, ","), offset, end));
    offset = end;
  }
  std::string header = absl::StrCat("{", absl::StrJoin(entries, ","), "}");
  header.append((8 - header.size() % 8) % 8, ' ');
  return header;
}

void WriteSafetensors(const std::string& path, const std::vector<TestTensor>& tensors) {
  std::string data;
  for (const TestTensor& tensor : tensors) {
    const uint64_t bytes = SizeOf(tensor);
    if (!tensor.data.empty() && tensor.data.size() != bytes) Die("data of another size than the shape", tensor.name);
    data += tensor.data.empty() ? PatternBytes(tensor.name, bytes) : tensor.data;
  }
  WriteRaw(path, SafetensorsHeader(tensors), data);
}

void WriteRaw(const std::string& path, std::string_view header_json, std::string_view data,
              std::optional<uint64_t> header_length) {
  WriteFile(path,
            absl::StrFormat("%s%s%s", LengthPrefix(header_length.value_or(header_json.size())), header_json, data));
}

void WriteIndex(const std::string& path, const std::vector<std::pair<std::string, std::string>>& weight_map) {
  std::vector<std::string> entries;
  entries.reserve(weight_map.size());
  for (const auto& [key, shard] : weight_map) entries.push_back(absl::StrCat(JsonString(key), ": ", JsonString(shard)));
  WriteFile(path, absl::StrCat("{\"metadata\": {}, \"weight_map\": {", absl::StrJoin(entries, ",\n"), "}}\n"));
}

std::vector<std::string> WriteShardedCheckpoint(const std::string& dir,
                                                const std::vector<std::vector<TestTensor>>& shards) {
  std::vector<std::pair<std::string, std::string>> weight_map;
  std::vector<std::string> files;
  for (size_t i = 0; i < shards.size(); ++i) {
    files.push_back(ShardName(i, shards.size()));
    WriteSafetensors(absl::StrCat(dir, "/", files.back()), shards[i]);
    for (const TestTensor& tensor : shards[i]) weight_map.emplace_back(tensor.name, files.back());
  }
  WriteIndex(absl::StrCat(dir, "/model.safetensors.index.json"), weight_map);
  return files;
}

void WriteSparseCheckpoint(const std::string& dir, uint32_t shards, uint32_t tensors_per_shard,
                           uint64_t bytes_per_tensor) {
  std::vector<std::pair<std::string, std::string>> weight_map;
  for (uint32_t shard = 0; shard < shards; ++shard) {
    std::vector<TestTensor> tensors;
    const std::string file = ShardName(shard, shards);
    for (uint32_t i = 0; i < tensors_per_shard; ++i) {
      tensors.push_back({.name = absl::StrCat("model.layers.", shard, ".mlp.experts.", i, ".weight"),
                         .dtype = DType::kU8,
                         .shape = {bytes_per_tensor},
                         .data = {}});
      weight_map.emplace_back(tensors.back().name, file);
    }
    const std::string header = SafetensorsHeader(tensors);
    const std::string path = absl::StrCat(dir, "/", file);
    WriteRaw(path, header, "");
    std::error_code error;
    std::filesystem::resize_file(path, 8 + header.size() + bytes_per_tensor * tensors_per_shard, error);
    if (error) Die(error.message(), path);
  }
  WriteIndex(absl::StrCat(dir, "/model.safetensors.index.json"), weight_map);
}

void WriteFile(const std::string& path, std::string_view content) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  out.close();
  if (!out) Die("cannot write", path);
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string content((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (!in) Die("cannot read", path);
  return content;
}

}  // namespace keyload
