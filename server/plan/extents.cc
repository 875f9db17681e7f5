#include "server/plan/extents.h"

#include <algorithm>

namespace keyload {
namespace {

// A request costs a disk about as much as reading this on. Wider gaps only spend the budget.
constexpr uint64_t kWidestGap = 256ull << 10;

Engine EngineOf(const TensorRun& run, const std::vector<PlannedSegment>& segments) {
  return segments[run.segment].kind == SegmentKind::kFile ? Engine::kMapped : Engine::kBuffered;
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
    if (const uint64_t gap = GapBetween(extents[i - 1], extents[i]); gap <= std::min(budget, kWidestGap)) {
      gaps.push_back(gap);
    }
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
      joined.back().run_count = extent.first_run + extent.run_count - joined.back().first_run;  // empty runs between
    } else {
      joined.push_back(extent);
    }
  }
  return joined;
}

}  // namespace

bool MayShareRun(const PlannedTensor& last, const PlannedTensor& next) {
  const bool converts = next.dtype != next.stored_dtype;
  return last.part_count == 0 && next.part_count == 0 && last.segment == next.segment && last.shard == next.shard &&
         last.file_offset + last.stored_bytes == next.file_offset && converts == (last.dtype != last.stored_dtype) &&
         (!converts || (last.dtype == next.dtype && last.stored_dtype == next.stored_dtype));
}

std::vector<TensorRun> CoalesceRuns(std::span<const PlannedTensor> reads) {
  std::vector<TensorRun> runs;
  for (uint32_t i = 0; i < reads.size(); ++i) {
    const PlannedTensor& tensor = reads[i];
    const bool continues = i > 0 && MayShareRun(reads[i - 1], tensor) &&
                           reads[i - 1].segment_offset + reads[i - 1].bytes == tensor.segment_offset;
    if (!continues) {
      runs.push_back({.shard = tensor.shard,
                      .segment = tensor.segment,
                      .file_offset = tensor.file_offset,
                      .segment_offset = tensor.segment_offset,
                      .first_read = i,
                      .dtype = tensor.dtype,
                      .stored_dtype = tensor.stored_dtype});
    }
    TensorRun& run = runs.back();
    run.stored_bytes += tensor.stored_bytes;
    run.bytes += tensor.bytes;
    ++run.read_count;
  }
  return runs;
}

std::vector<Extent> CoalesceExtents(const std::vector<TensorRun>& runs, const std::vector<PlannedSegment>& segments,
                                    uint64_t gap_budget) {
  std::vector<Extent> single;
  single.reserve(runs.size());
  for (uint32_t i = 0; i < runs.size(); ++i) {
    if (runs[i].stored_bytes == 0) continue;
    single.push_back({.shard = runs[i].shard,
                      .offset = runs[i].file_offset,
                      .length = runs[i].stored_bytes,
                      .first_run = i,
                      .run_count = 1,
                      .engine = EngineOf(runs[i], segments)});
  }
  const std::vector<Extent> touching = Join(single, 0);
  return Join(touching, LargestGapWithin(touching, gap_budget));
}

uint64_t GapBudget(uint64_t bytes) { return bytes / kOverReadShare - bytes / kRoundingShare; }

}  // namespace keyload
