#include "server/plan/extents.h"

#include <algorithm>

namespace keyload {
namespace {

Engine EngineOf(const PlannedTensor& tensor, const std::vector<PlannedSegment>& segments) {
  return segments[tensor.segment].kind == SegmentKind::kFile ? Engine::kMapped : Engine::kBuffered;
}

bool CanJoin(const Extent& left, const Extent& right) {
  return left.shard == right.shard && left.engine == right.engine && left.offset + left.length <= right.offset;
}

uint64_t GapBetween(const Extent& left, const Extent& right) { return right.offset - (left.offset + left.length); }

// The largest gap that may be bridged so that the sum of all bridged gaps keeps within the budget.
uint64_t LargestGapWithin(const std::vector<Extent>& extents, uint64_t budget) {
  std::vector<uint64_t> gaps;
  for (size_t i = 1; i < extents.size(); ++i) {
    if (!CanJoin(extents[i - 1], extents[i]) || extents[i].engine != Engine::kBuffered) continue;
    if (const uint64_t gap = GapBetween(extents[i - 1], extents[i]); gap <= budget) gaps.push_back(gap);
  }
  std::sort(gaps.begin(), gaps.end());
  uint64_t largest = 0;
  for (size_t i = 0; i < gaps.size();) {
    const size_t end = std::upper_bound(gaps.begin() + i, gaps.end(), gaps[i]) - gaps.begin();
    const uint64_t count = end - i;
    if (count > budget / std::max<uint64_t>(gaps[i], 1)) break;
    budget -= count * gaps[i];
    largest = gaps[i];
    i = end;
  }
  return largest;
}

std::vector<Extent> Join(const std::vector<Extent>& extents, uint64_t largest_gap) {
  std::vector<Extent> joined;
  for (const Extent& extent : extents) {
    const uint64_t allowed = extent.engine == Engine::kBuffered ? largest_gap : 0;
    if (!joined.empty() && CanJoin(joined.back(), extent) && GapBetween(joined.back(), extent) <= allowed) {
      joined.back().length = extent.offset + extent.length - joined.back().offset;
      joined.back().tensor_count += extent.tensor_count;
    } else {
      joined.push_back(extent);
    }
  }
  return joined;
}

}  // namespace

std::vector<Extent> CoalesceExtents(const std::vector<PlannedTensor>& tensors,
                                    const std::vector<PlannedSegment>& segments, uint64_t gap_budget) {
  std::vector<Extent> single;
  single.reserve(tensors.size());
  for (uint32_t i = 0; i < tensors.size(); ++i) {
    single.push_back({.shard = tensors[i].shard,
                      .offset = tensors[i].file_offset,
                      .length = tensors[i].stored_bytes,
                      .first_tensor = i,
                      .tensor_count = 1,
                      .engine = EngineOf(tensors[i], segments)});
  }
  const std::vector<Extent> touching = Join(single, 0);
  return Join(touching, LargestGapWithin(touching, gap_budget));
}

}  // namespace keyload
