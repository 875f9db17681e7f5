#include "server/checkpoint/header_assembly.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/container/flat_hash_map.h"
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
    if (by_name_.Insert(tensors[i].name, i, NameAt())) continue;
    const auto earlier = static_cast<size_t>(by_name_.Find(tensors[i].name, NameAt()));
    if (tensors[earlier].shard == tensors[i].shard) return NameTwice(i);
    KEYLOAD_RETURN_IF_ERROR(ReserveCounted(again_, again_.size() + 1, &charge_, path_));
    again_.push_back(i);
  }
  return absl::OkStatus();
}

absl::Status HeaderAssembly::NameTwice(uint32_t again) const {
  const std::vector<StoredTensor>& tensors = content_.tensors;
  const std::string_view name = tensors[again].name;
  const auto earlier = static_cast<size_t>(by_name_.Find(name, NameAt()));
  const std::string& first = content_.shards[tensors[earlier].shard].file;
  const std::string& second = content_.shards[tensors[again].shard].file;
  return MakeError(
      Reason::kCheckpointCorrupt,
      absl::StrFormat("%s: tensor \"%s\" is in shard %s and again in shard %s", path_, Shortened(name), first, second),
      {{"path", path_}, {"key", Shortened(name)}, {"file", first}, {"shard", second}});
}

absl::Status HeaderAssembly::LeaveOutCopies(const IndexFile& index, const RequestContext& context) {
  struct Place {
    int64_t shard = -1;  // where the index file says that the tensor is
    bool found = false;
  };
  constexpr uint64_t kBytesPerName = 2 * (sizeof(std::string_view) + sizeof(Place));
  const std::vector<StoredTensor>& tensors = content_.tensors;
  TemporaryCharge work(&charge_);
  KEYLOAD_RETURN_IF_ERROR(work.Add(again_.size() * kBytesPerName + tensors.size() / 8, path_));
  PeriodicCheck check(&context);
  absl::flat_hash_map<std::string_view, Place> places;
  places.reserve(again_.size());
  for (const uint32_t again : again_) places.try_emplace(tensors[again].name);
  for (const IndexFile::Entry& entry : index.entries) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    const auto place = places.find(entry.key);
    if (place != places.end()) place->second.shard = entry.shard;
  }
  std::vector<bool> left_out(tensors.size()), seen(tensors.size());
  OtherCopies& copies = content_.other_copies;
  const auto decide = [&](uint32_t i, Place& place) {
    if (seen[i]) return true;
    seen[i] = true;
    if (tensors[i].shard == place.shard) return !std::exchange(place.found, true);
    left_out[i] = true;
    if (copies.count++ == 0) {
      copies.example = Shortened(tensors[i].name);
      copies.counts = static_cast<uint32_t>(place.shard);
      copies.other = tensors[i].shard;
    }
    return true;
  };
  for (const uint32_t again : again_) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    Place& place = places.find(tensors[again].name)->second;
    const auto earlier = static_cast<uint32_t>(by_name_.Find(tensors[again].name, NameAt()));
    if (place.shard < 0 || !decide(earlier, place) || !decide(again, place)) return NameTwice(again);
  }
  for (const uint32_t again : again_) {
    const Place& place = places.find(tensors[again].name)->second;
    if (place.found) continue;
    return Annotate(NameTwice(again), absl::StrFormat("the index file says that it is in shard %s, where it is not",
                                                      content_.shards[place.shard].file));
  }
  return Remove(left_out);
}

absl::Status HeaderAssembly::Remove(const std::vector<bool>& left_out) {
  std::vector<StoredTensor>& tensors = content_.tensors;
  uint32_t kept = 0;
  for (ShardHeader& shard : content_.shards) {
    const uint32_t begin = shard.first_tensor, end = begin + shard.tensor_count;
    shard.first_tensor = kept;
    for (uint32_t i = begin; i < end; ++i) {
      if (left_out[i]) continue;
      if (kept != i) tensors[kept] = std::move(tensors[i]);
      ++kept;
    }
    shard.tensor_count = kept - shard.first_tensor;
    shard.whole = shard.tensor_count == end - begin;
  }
  tensors.resize(kept);
  by_name_ = NameTable(0);
  KEYLOAD_RETURN_IF_ERROR(ReserveNames(kept, 0));
  for (uint32_t i = 0; i < kept; ++i) by_name_.Insert(tensors[i].name, i, NameAt());
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<CheckpointHeaders>> HeaderAssembly::Finish(const IndexFile* index,
                                                                          const RequestContext& context) {
  if (!again_.empty()) {
    if (index == nullptr) return NameTwice(again_.front());
    KEYLOAD_RETURN_IF_ERROR(LeaveOutCopies(*index, context));
    charge_.Remove(again_.capacity() * sizeof(uint32_t));
    again_ = {};
  }
  if (index != nullptr) content_.total_size = index->total_size;
  return std::make_shared<CheckpointHeaders>(std::move(content_), std::move(by_name_));
}

}  // namespace keyload
