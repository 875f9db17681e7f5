#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/io/page_cache.h"
#include "server/io/page_cache_hold.h"
#include "server/load/transfer.h"
#include "server/report/load_report.h"
#include "server/store/resident_model.h"

namespace keyload {

// The page cache modes of a load: what it does to the pages of the files that its tensors are in.

// Where the stored bytes of tensors are: per shard of the index ascending ranges that neither touch nor overlap.
using ShardRanges = std::vector<std::vector<ByteRange>>;
// Of the tensors that stay in their files: on "disk", mapped, or lazy where `states` says so.
ShardRanges RangesInFiles(const KeyReport& keys, const LoadPlan& plan, const std::vector<Residency::State>& states);
// Of the tensors that are copied into memory segments.
ShardRanges CopiedRanges(const CheckpointIndex& index, const LoadPlan& plan);

// Reads `ranges` into the page cache, and locks them there if `budget` is given. Says in `report` what was read of
// which shard, and in a warning how much is not there afterwards or could not be held. Blocks on the disks.
// LOAD_CANCELLED, DEADLINE_EXCEEDED, CHECKPOINT_TRUNCATED, CHECKPOINT_CHANGED, IO_ERROR.
absl::StatusOr<std::vector<HeldPages>> WarmRanges(const KeyReport& keys, const ShardRanges& ranges, HoldBudget* budget,
                                                  const TransferResources& resources, const RequestContext& context,
                                                  ProgressFunction progress, LoadReport& report);

// Drops `ranges` from the page cache; what cannot be dropped is a warning.
void DropRanges(const CheckpointIndex& index, const ShardRanges& ranges, LoadReport& report);

// How much of what the model has in files is in the page cache now. Reads nothing. 0 for a model that is copied, and
// where the system does not tell.
uint64_t PageCacheBytes(const ResidentModel& model);

// The same as it was measured last, and measured anew when that is due. Before Linux 6.5 every page is looked at, which
// takes seconds for hundreds of GB: that of a large model goes to `background` and counts for those who ask later; 0
// until it is there. At most one measurement of a model runs at a time.
uint64_t RecentPageCacheBytes(const std::shared_ptr<const ResidentModel>& model, Executor& background);

}  // namespace keyload
