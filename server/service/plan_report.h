#pragma once

#include "server/service/prepare.h"

namespace keyload {

// The report of a plan: keys, names, device map, devices, shards, bytes selected and warnings. Outcome PLANNED.
// The errors of `context`.
absl::StatusOr<LoadReport> MakePlanReport(const LoadSpec& spec, const PreparedKeys& prepared,
                                          const PlacementInput& input, const Placement& placement, const LoadPlan& plan,
                                          const std::vector<PlacementDevice>& devices, const DeviceSet& node,
                                          const RequestContext& context);

// Names what a report names, at most `limit` of each: those of the missing, unexpected and mismatched keys that
// `selection` selects. What `check` returns.
absl::Status AddNames(const KeyReport& keys, const KeySelection& selection, size_t limit, PeriodicCheck& check,
                      LoadReport& report);

// Counts the tensors of `plan`: into report.devices, which are those of the plan in its order, and into report.shards,
// one for each shard that has any, in the index's order.
void AddTensors(const CheckpointIndex& index, const LoadPlan& plan, LoadReport& report);

}  // namespace keyload
