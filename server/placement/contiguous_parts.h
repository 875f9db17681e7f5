#pragma once

#include <cstdint>
#include <vector>

namespace keyload {

// Cuts a row of parts into contiguous ranges, one for each of a row of devices in order, so that the largest fill (a
// range's bytes over its device's limit) is minimal. Where not all parts fit, the longest row of the first ones that
// does is cut. Of the cuts with the minimal fill it takes the one whose earlier ranges are longest. Limits must be
// above 0, bytes must add up to at most 2^62. Returns the ends of the ranges, one per device: device d gets the parts
// [end of d - 1, end of d), and what is behind the last end fits nowhere.
std::vector<uint32_t> CutIntoRanges(const std::vector<uint64_t>& part_bytes, const std::vector<uint64_t>& limits);

}  // namespace keyload
