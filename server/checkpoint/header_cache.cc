#include "server/checkpoint/header_cache.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace keyload {
namespace {

bool Settled(const FileIdentity& file, absl::Time opened_at) {
  const absl::Time changed = absl::FromUnixNanos(std::max(file.mtime_ns, file.ctime_ns));
  return changed + HeaderCache::kSettleTime < opened_at;
}

}  // namespace

std::shared_ptr<const CheckpointHeaders> HeaderCache::FindCheckpoint(const FileIdentity& start) {
  MutexLock lock(mutex_);
  const auto found = by_start_.find(start);
  if (found == by_start_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->headers;
}

std::optional<HeaderCache::KnownShard> HeaderCache::FindShard(const FileIdentity& file) {
  MutexLock lock(mutex_);
  const auto found = by_shard_.find(file);
  if (found == by_shard_.end()) return std::nullopt;
  entries_.splice(entries_.begin(), entries_, found->second.entry);
  return KnownShard{.headers = found->second.entry->headers, .shard = found->second.shard};
}

void HeaderCache::Add(const FileIdentity& start, std::shared_ptr<const CheckpointHeaders> headers,
                      absl::Time opened_at) {
  const uint64_t bytes = BytesOf(*headers);
  const auto& shards = headers->shards();
  if (bytes > options_.max_bytes || !Settled(start, opened_at)) return;
  if (!std::all_of(shards.begin(), shards.end(), [&](const auto& s) { return Settled(s.identity, opened_at); })) return;

  Entries dropped;
  MutexLock lock(mutex_);
  if (const auto known = by_start_.find(start); known != by_start_.end()) Drop(known->second, dropped);
  while (bytes > options_.max_bytes - bytes_) Drop(std::prev(entries_.end()), dropped);
  entries_.push_front({.start = start, .headers = std::move(headers)});
  bytes_ += bytes;
  by_start_[start] = entries_.begin();
  for (uint32_t i = 0; i < shards.size(); ++i) {
    // What is left out of one checkpoint may count in another.
    if (shards[i].whole) by_shard_[shards[i].identity] = {.entry = entries_.begin(), .shard = i};
  }
}

bool HeaderCache::MakeRoom(uint64_t bytes) {
  Entries dropped;
  uint64_t freed = 0;
  MutexLock lock(mutex_);
  for (auto entry = entries_.end(); entry != entries_.begin() && freed < bytes;) {
    --entry;
    if (entry->headers.use_count() > 1) continue;
    freed += entry->headers->bytes();
    const auto next = std::next(entry);
    Drop(entry, dropped);
    entry = next;
  }
  return !dropped.empty();
}

uint64_t HeaderCache::BytesOf(const CheckpointHeaders& headers) {
  return headers.bytes() + sizeof(Entry) + headers.shards().size() * 2 * (sizeof(FileIdentity) + sizeof(ShardPlace));
}

void HeaderCache::Drop(Entries::iterator entry, Entries& dropped) {
  bytes_ -= BytesOf(*entry->headers);
  by_start_.erase(entry->start);
  for (const ShardHeader& shard : entry->headers->shards()) {
    const auto place = by_shard_.find(shard.identity);
    if (place != by_shard_.end() && place->second.entry == entry) by_shard_.erase(place);
  }
  dropped.splice(dropped.end(), entries_, entry);
}

uint64_t HeaderCache::bytes() const {
  MutexLock lock(mutex_);
  return bytes_;
}

}  // namespace keyload
