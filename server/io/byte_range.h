#pragma once

#include <cstdint>
#include <vector>

namespace keyload {

// A part of a file.
struct ByteRange {
  uint64_t offset = 0;
  uint64_t length = 0;
};

// Whether files can be long enough to have `range`.
bool CanBeInFile(ByteRange range);

uint64_t PageBytes();

// `ranges` in order and without empty ones, those joined that overlap, touch, or would if they were rounded outwards to
// multiples of `unit`. REQUIRES: CanBeInFile(every range).
std::vector<ByteRange> JoinRanges(std::vector<ByteRange> ranges, uint64_t unit = 1);

uint64_t TotalLength(const std::vector<ByteRange>& ranges);

}  // namespace keyload
