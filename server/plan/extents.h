#pragma once

#include <vector>

#include "server/plan/load_plan.h"

namespace keyload {

// Joins neighbours of sorted `tensors` into extents. Touching tensors always join; buffered ones join over gaps too,
// the smallest gaps first, while all gaps together stay within `gap_budget` bytes.
std::vector<Extent> CoalesceExtents(const std::vector<PlannedTensor>& tensors,
                                    const std::vector<PlannedSegment>& segments, uint64_t gap_budget);

}  // namespace keyload
