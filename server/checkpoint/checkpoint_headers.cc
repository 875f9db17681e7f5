#include "server/checkpoint/checkpoint_headers.h"

#include <utility>

#include "server/checkpoint/natural_order.h"

namespace keyload {

uint64_t MemoryBytes(const StoredAliases& aliases) {
  uint64_t bytes = aliases.capacity() * sizeof(StoredAlias);
  for (const StoredAlias& names : aliases) bytes += names.alias.capacity() + names.stored.capacity();
  return bytes;
}

CheckpointHeaders::CheckpointHeaders(Content content)
    : content_(std::move(content)), by_name_(content_.tensors.size()) {
  const auto name_at = [this](uint32_t i) { return content_.tensors[i].name; };
  for (uint32_t i = 0; i < content_.tensors.size(); ++i) by_name_.Insert(content_.tensors[i].name, i, name_at);
  bytes_ = CountBytes();
}

CheckpointHeaders::CheckpointHeaders(Content content, NameTable by_name)
    : content_(std::move(content)), by_name_(std::move(by_name)), bytes_(CountBytes()) {}

int64_t CheckpointHeaders::Find(std::string_view name) const {
  return by_name_.Find(name, [this](uint32_t i) { return content_.tensors[i].name; });
}

int64_t CheckpointHeaders::Find(std::string_view name, int64_t guess) const {
  if (guess >= 0 && guess < static_cast<int64_t>(content_.tensors.size()) && content_.tensors[guess].name == name) {
    return guess;
  }
  return Find(name);
}

const std::vector<uint32_t>& CheckpointHeaders::NaturalOrder() const {
  std::call_once(ordered_, [this] {
    std::vector<std::string_view> names;
    names.reserve(content_.tensors.size());
    for (const StoredTensor& tensor : content_.tensors) names.push_back(tensor.name);
    natural_order_ = keyload::NaturalOrder(names);
  });
  return natural_order_;
}

void CheckpointHeaders::SetIndexDifferences(std::vector<std::string> index_only_keys,
                                            std::vector<std::string> unindexed_keys,
                                            std::vector<AbsentKey> absent_keys) {
  content_.absent_keys = std::move(absent_keys);
  content_.index_only_keys = std::move(index_only_keys);
  content_.unindexed_keys = std::move(unindexed_keys);
  bytes_ = CountBytes();
}

void CheckpointHeaders::SetCharge(std::unique_ptr<HeaderCharge> charge) {
  charge->Settle(bytes_);
  charge_ = std::move(charge);
}

uint64_t CheckpointHeaders::CountBytes() const {
  uint64_t bytes = sizeof(*this) + by_name_.bytes() + content_.tensors.capacity() * sizeof(StoredTensor) +
                   content_.tensors.size() * sizeof(uint32_t) + content_.shards.capacity() * sizeof(ShardHeader);
  for (const StoredTensor& tensor : content_.tensors) {
    bytes += HeapOf(tensor.shape);
  }
  for (const ShardHeader& shard : content_.shards) {
    bytes += shard.file.capacity() + shard.names->capacity();
    if (shard.aliases != nullptr) bytes += MemoryBytes(*shard.aliases);
  }
  for (const auto& block : content_.name_blocks) bytes += block->capacity();
  for (const auto* keys : {&content_.index_only_keys, &content_.unindexed_keys}) {
    for (const std::string& key : *keys) bytes += sizeof(key) + key.capacity();
  }
  for (const AbsentKey& key : content_.absent_keys) bytes += sizeof(key) + key.name.capacity();
  return bytes;
}

}  // namespace keyload
