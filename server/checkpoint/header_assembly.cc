#include "server/checkpoint/header_assembly.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/checkpoint/json_checks.h"

namespace keyload {

HeaderAssembly::HeaderAssembly(std::string path, size_t shards, HeaderCharge& charge)
    : path_(std::move(path)), charge_(charge), waiting_(shards) {
  content_.shards.reserve(shards);
}

absl::Status HeaderAssembly::Reserve(size_t keys) {
  KEYLOAD_RETURN_IF_ERROR(ReserveCounted(content_.tensors, keys, &charge_, path_));
  return ReserveNames(keys, 0);
}

absl::Status HeaderAssembly::ReserveNames(size_t keys, size_t present) {
  if (by_name_.HasRoomFor(keys)) return absl::OkStatus();
  const size_t room = std::max(keys, 2 * present);
  KEYLOAD_RETURN_IF_ERROR(charge_.Add(NameTable::BytesFor(room), path_));
  by_name_ = NameTable(room);
  charge_.Remove(std::exchange(table_bytes_, by_name_.bytes()));
  for (uint32_t i = 0; i < present; ++i) by_name_.Insert(content_.tensors[i].name, i, NameAt());
  return absl::OkStatus();
}

absl::Status HeaderAssembly::Add(uint32_t number, const Shard& shard, ShardRead read) {
  {
    MutexLock lock(mutex_);
    waiting_[number] = {.shard = &shard, .read = std::move(read)};
    if (appending_) return absl::OkStatus();
    appending_ = true;
  }
  while (true) {
    Waiting waiting;
    {
      MutexLock lock(mutex_);
      if (next_ == waiting_.size() || !waiting_[next_]) {
        appending_ = false;
        return absl::OkStatus();
      }
      number = next_++;
      waiting = *std::exchange(waiting_[number], std::nullopt);
    }
    // After an error nobody appends any more.
    KEYLOAD_RETURN_IF_ERROR(Append(number, std::move(waiting)));
  }
}

absl::Status HeaderAssembly::Append(uint32_t number, Waiting waiting) {
  const Shard& shard = *waiting.shard;
  SafetensorsHeader& read = waiting.read.header;
  const HeaderCache::KnownShard& known = waiting.read.known;
  const ShardHeader* const before = known.headers == nullptr ? nullptr : &known.headers->shards()[known.shard];
  const size_t first = content_.tensors.size();
  const size_t count = before == nullptr ? read.tensors.size() : before->tensor_count;
  KEYLOAD_RETURN_IF_ERROR(ReserveCounted(content_.tensors, first + count, &charge_, path_));
  if (before == nullptr) {
    std::move(read.tensors.begin(), read.tensors.end(), std::back_inserter(content_.tensors));
    charge_.Remove(read.tensors.capacity() * sizeof(StoredTensor));
    read.tensors = {};
  } else {
    const auto begin = known.headers->tensors().begin() + before->first_tensor;
    uint64_t shape_bytes = 0;
    for (auto tensor = begin; tensor != begin + before->tensor_count; ++tensor) shape_bytes += HeapOf(tensor->shape);
    KEYLOAD_RETURN_IF_ERROR(charge_.Add(shape_bytes, path_));
    std::copy(begin, begin + before->tensor_count, std::back_inserter(content_.tensors));
    for (size_t i = first; i < content_.tensors.size(); ++i) content_.tensors[i].shard = number;
  }
  content_.shards.push_back({.file = shard.file,
                             .identity = shard.identity,
                             .data_offset = shard.data_offset,
                             .first_tensor = static_cast<uint32_t>(first),
                             .tensor_count = static_cast<uint32_t>(count),
                             .names = before == nullptr ? std::move(read.names) : before->names,
                             .aliases = before == nullptr ? std::move(read.aliases) : before->aliases});
  return InsertNames(first);
}

absl::Status HeaderAssembly::InsertNames(size_t first) {
  const std::vector<StoredTensor>& tensors = content_.tensors;
  KEYLOAD_RETURN_IF_ERROR(ReserveNames(tensors.size(), first));
  for (auto i = static_cast<uint32_t>(first); i < tensors.size(); ++i) {
    if (!by_name_.Insert(tensors[i].name, i, NameAt())) return NameTwice(tensors[i].name);
  }
  return absl::OkStatus();
}

absl::Status HeaderAssembly::NameTwice(std::string_view name) const {
  const std::vector<StoredTensor>& tensors = content_.tensors;
  const auto earlier = static_cast<size_t>(by_name_.Find(name, NameAt()));
  const std::string& file = content_.shards[tensors[earlier].shard].file;
  const std::string& again = content_.shards.back().file;
  return MakeError(
      Reason::kCheckpointCorrupt,
      absl::StrFormat("%s: tensor \"%s\" is in shard %s and again in shard %s", path_, Shortened(name), file, again),
      {{"path", path_}, {"key", Shortened(name)}, {"file", file}, {"shard", again}});
}

std::shared_ptr<CheckpointHeaders> HeaderAssembly::Finish() {
  return std::make_shared<CheckpointHeaders>(std::move(content_), std::move(by_name_));
}

}  // namespace keyload
