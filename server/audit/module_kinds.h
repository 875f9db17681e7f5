#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/checkpoint/checkpoint_headers.h"

namespace keyload {

// Modules of one name are mostly of one kind: all of a model's "self_attn" have the same children. Returns what one
// module lacks of what at least three others of its name have, where it has nothing that they have not: names of keys,
// or of modules that lack as a whole. Modules of numbers are the business of NumberedLists. A bias alone counts only
// where modules at the same place of other layers have it, as models mix layers with and without. The context's errors.
absl::StatusOr<std::vector<std::string>> LackingChildren(std::span<const StoredTensor> tensors,
                                                         const RequestContext& context);

}  // namespace keyload
