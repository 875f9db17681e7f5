#include "tests/mock_client/made_checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/types/span.h"
#include "tests/mock_client/json_fields.h"

namespace keyload::mock {
namespace {

constexpr uint64_t kWriteBlock = uint64_t{1} << 20;

uint64_t ElementSize(std::string_view dtype) {
  if (dtype == "F64" || dtype == "I64") return 8;
  if (dtype == "F32" || dtype == "I32") return 4;
  if (dtype == "F16" || dtype == "BF16") return 2;
  return dtype == "U8" ? 1 : 0;
}

uint64_t Scramble(uint64_t value) {  // splitmix64
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

uint64_t HashName(std::string_view name) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

absl::Status WriteShard(const std::string& path, absl::Span<const NamedTensor> tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  uint64_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + tensor.bytes}}};
    offset += tensor.bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof length);
  file << text;
  for (const NamedTensor& tensor : tensors) {
    for (uint64_t done = 0; done < tensor.bytes; done += kWriteBlock) {
      file << TensorContent(tensor.name, done, std::min(kWriteBlock, tensor.bytes - done));
    }
  }
  file.close();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  ::chmod(path.c_str(), 0644);
  return absl::OkStatus();
}

std::string ShardName(uint64_t shard, uint64_t shards) {
  return shards == 1 ? "model.safetensors" : absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, shards);
}

absl::Status WriteIndex(const std::string& path, const nlohmann::json& weight_map, uint64_t total) {
  std::ofstream file(path);
  file << nlohmann::json{{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}}.dump();
  file.close();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  ::chmod(path.c_str(), 0644);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<TensorFamily>> ParseFamilies(const nlohmann::json* list, const std::string& where) {
  if (list == nullptr) return absl::InvalidArgumentError(absl::StrCat(where, ": needs the list \"tensors\""));
  std::vector<TensorFamily> families;
  for (const nlohmann::json& element : *list) {
    Fields fields(element, absl::StrCat(where, ".tensors"));
    TensorFamily family{.name = fields.RequiredText("name"),
                        .count = fields.Count("count", 1),
                        .dtype = fields.RequiredText("dtype"),
                        .shape = fields.RequiredCounts("shape")};
    if (ElementSize(family.dtype) == 0) fields.Fail(absl::StrCat("cannot make tensors of dtype ", family.dtype));
    if (absl::Status status = fields.Finish(); !status.ok()) return status;
    families.push_back(std::move(family));
  }
  return families;
}

std::vector<NamedTensor> Expand(const std::vector<TensorFamily>& families) {
  std::vector<NamedTensor> tensors;
  for (const TensorFamily& family : families) {
    uint64_t bytes = ElementSize(family.dtype);
    for (const uint64_t dimension : family.shape) bytes *= dimension;
    for (uint64_t i = 0; i < family.count; ++i) {
      tensors.push_back({.name = absl::StrReplaceAll(family.name, {{"#", absl::StrCat(i)}}),
                         .dtype = family.dtype,
                         .shape = family.shape,
                         .bytes = bytes});
    }
  }
  return tensors;
}

absl::Status WriteCheckpoint(const std::string& path, const std::vector<NamedTensor>& tensors, uint64_t shards) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot create ", path, ": ", error.message()));
  ::chmod(path.c_str(), 0755);
  nlohmann::json weight_map = nlohmann::json::object();
  uint64_t total = 0;
  for (uint64_t shard = 0; shard < shards; ++shard) {
    const size_t first = tensors.size() * shard / shards;
    const size_t last = tensors.size() * (shard + 1) / shards;
    const auto part = absl::MakeConstSpan(tensors).subspan(first, last - first);
    const std::string name = ShardName(shard, shards);
    if (absl::Status status = WriteShard(absl::StrCat(path, "/", name), part); !status.ok()) return status;
    for (const NamedTensor& tensor : part) {
      weight_map[tensor.name] = name;
      total += tensor.bytes;
    }
  }
  if (shards == 1) return absl::OkStatus();
  return WriteIndex(absl::StrCat(path, "/model.safetensors.index.json"), weight_map, total);
}

std::string TensorContent(std::string_view name, uint64_t offset, uint64_t bytes) {
  const uint64_t seed = HashName(name);
  std::string content(bytes, '\0');
  for (uint64_t at = 0; at < bytes; at += sizeof(uint64_t)) {
    const uint64_t word = Scramble(seed + (offset + at) / sizeof(uint64_t));
    std::memcpy(content.data() + at, &word, std::min<uint64_t>(sizeof word, bytes - at));
  }
  return content;
}

}  // namespace keyload::mock
