#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "server/audit/finding.h"
#include "server/audit/numbered_lists.h"
#include "server/base/request_context.h"

namespace keyload {

// What the names of a checkpoint say by themselves, where nothing tells which keys its model has: "gap", a number that
// a list leaves out, and "alike", what a layer or expert lacks that its like have. Linear in the names but for sorting
// them. Of complete checkpoints of transformers' model types about one in a hundred gets a false finding
// (tests/differential/rules_test.py). The context's errors.
absl::StatusOr<std::vector<Finding>> AuditNames(const NumberedLists& lists, const RequestContext& context);

}  // namespace keyload
