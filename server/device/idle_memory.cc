#include "server/device/idle_memory.h"

#include "absl/cleanup/cleanup.h"

namespace keyload {

void IdleMemory::Add(SegmentMapping mapping) {
  const uint64_t bytes = mapping.bytes();
  const uint64_t huge_bytes = mapping.huge() ? bytes : 0;
  const auto by_bytes = by_bytes_.emplace(bytes, next_).first;
  absl::Cleanup undo = [&] { by_bytes_.erase(by_bytes); };
  by_age_.emplace(next_, std::move(mapping));
  std::move(undo).Cancel();
  ++next_;
  bytes_ += bytes;
  huge_bytes_ += huge_bytes;
}

std::optional<SegmentMapping> IdleMemory::Take(uint64_t bytes) {
  auto found = by_bytes_.lower_bound({bytes, 0});
  if (found == by_bytes_.end() || found->first / 2 > bytes) {
    if (found == by_bytes_.begin() || (--found)->first < bytes / 2) return std::nullopt;
    if (by_age_.find(found->second)->second.huge()) return std::nullopt;  // it cannot grow
  }
  SegmentMapping mapping = Remove(by_age_.find(found->second));
  if (!mapping.Resize(bytes)) return std::nullopt;
  return mapping;
}

SegmentMapping IdleMemory::TakeOldest() { return Remove(by_age_.begin()); }

SegmentMapping IdleMemory::Remove(std::map<uint64_t, SegmentMapping>::iterator entry) {
  SegmentMapping mapping = std::move(entry->second);
  bytes_ -= mapping.bytes();
  if (mapping.huge()) huge_bytes_ -= mapping.bytes();
  by_bytes_.erase({mapping.bytes(), entry->first});
  by_age_.erase(entry);
  return mapping;
}

}  // namespace keyload
