#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/hash/hash.h"
#include "server/base/strings.h"

namespace keyload {

// Finds a name's position in a list that is kept elsewhere: eight bytes a slot, no copy and no view of the name. Not
// thread-safe while it grows.
class NameTable {
 public:
  // For at most `count` names, below 2^31.
  explicit NameTable(size_t count) : slots_(SlotsFor(count)) {}

  // What a table for `count` names takes.
  static size_t BytesFor(size_t count) { return SlotsFor(count) * sizeof(Slot); }
  bool HasRoomFor(size_t count) const { return SlotsFor(count) <= slots_.size(); }

  // Position of `name`, or -1. name_at(position) is the list's name there.
  template <typename NameAt>
  int64_t Find(std::string_view name, const NameAt& name_at) const {
    return int64_t{slots_[SlotOf(name, absl::HashOf(ToAbsl(name)), name_at)].position_plus_1} - 1;
  }
  // Adds `name`; false when it is there already.
  template <typename NameAt>
  bool Insert(std::string_view name, uint32_t position, const NameAt& name_at) {
    const uint64_t hash = absl::HashOf(ToAbsl(name));
    Slot& slot = slots_[SlotOf(name, hash, name_at)];
    if (slot.position_plus_1 != 0) return false;
    slot = {.tag = Tag(hash), .position_plus_1 = position + 1};
    return true;
  }

  size_t bytes() const { return slots_.size() * sizeof(Slot); }

 private:
  struct Slot {
    uint32_t tag = 0;
    uint32_t position_plus_1 = 0;  // 0: free
  };

  static size_t SlotsFor(size_t count) { return std::bit_ceil(count + count / 3 + 2); }
  static uint32_t Tag(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

  // Where `name` is, or the free slot where it belongs; at least a quarter of the slots are free.
  template <typename NameAt>
  size_t SlotOf(std::string_view name, uint64_t hash, const NameAt& name_at) const {
    const size_t mask = slots_.size() - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
      const Slot& slot = slots_[i];
      if (slot.position_plus_1 == 0) return i;
      if (slot.tag == Tag(hash) && name_at(slot.position_plus_1 - 1) == name) return i;
    }
  }

  std::vector<Slot> slots_;
};

}  // namespace keyload
