#pragma once

#include "absl/status/status.h"
#include "server/load/transfer.h"

namespace keyload {

// Compares every second stored copy of a tied tensor with the first. An equal one gives its segment back and is listed
// in equal_duplicates; one that differs stays and is listed in conflicts. Reads from the devices and, for mapped
// tensors, from the files. Blocks.
absl::Status CompareTiedCopies(const LoadPlan& plan, const RequestContext& context, TransferResult& result,
                               ReadCounts& counts);

}  // namespace keyload
