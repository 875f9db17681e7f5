#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "server/device/segment_mapping.h"

namespace keyload {

// Segments that nobody uses, kept because their pages are there: the next user need not wait for the kernel to find and
// zero them. Not thread-safe.
class IdleMemory {
 public:
  bool empty() const { return by_age_.empty(); }
  size_t count() const { return by_age_.size(); }
  uint64_t bytes() const { return bytes_; }
  uint64_t huge_bytes() const { return huge_bytes_; }  // part of bytes()
  void Add(SegmentMapping mapping);
  // The one that serves `bytes` best, resized to them: the smallest of one to two times the size, else the largest of
  // at least half. Its contents are what its last user left, followed by zeros. Nothing where none fits.
  std::optional<SegmentMapping> Take(uint64_t bytes);
  // REQUIRES: not empty.
  SegmentMapping TakeOldest();

 private:
  SegmentMapping Remove(std::map<uint64_t, SegmentMapping>::iterator entry);

  uint64_t next_ = 0;
  uint64_t bytes_ = 0;
  uint64_t huge_bytes_ = 0;
  std::map<uint64_t, SegmentMapping> by_age_;         // by the number of its Add
  std::set<std::pair<uint64_t, uint64_t>> by_bytes_;  // {size, number}
};

}  // namespace keyload
