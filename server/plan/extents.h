#pragma once

#include <span>
#include <vector>

#include "server/plan/load_plan.h"

namespace keyload {

// Whether a run of `last` may go on with `next`, as far as file, segment and conversion are concerned.
bool MayShareRun(const PlannedTensor& last, const PlannedTensor& next);

// Joins neighbours of sorted `reads` into runs; see TensorRun.
std::vector<TensorRun> CoalesceRuns(std::span<const PlannedTensor> reads);

// Joins neighbours of sorted `runs` into extents. Touching runs of one engine always join; buffered ones join over gaps
// too, the smallest gaps first, up to 256 KiB each, while all gaps together stay within `gap_budget` bytes.
std::vector<Extent> CoalesceExtents(const std::vector<TensorRun>& runs, const std::vector<PlannedSegment>& segments,
                                    uint64_t gap_budget);

// The bytes that gaps may add to a plan that reads `bytes`.
uint64_t GapBudget(uint64_t bytes);

}  // namespace keyload
