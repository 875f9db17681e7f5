#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "server/audit/finding.h"
#include "server/audit/numbered_lists.h"
#include "server/base/request_context.h"
#include "server/expected/config_value.h"

namespace keyload {

// What a config.json says of a model that no template knows: "layers" and "experts", where the longest list has fewer
// members than it says, and "vocabulary", where embeddings or head are not there. Only for architectures that write
// text, as the sizes mean other things elsewhere. The context's errors.
absl::StatusOr<std::vector<Finding>> AuditConfig(const NumberedLists& lists, const ConfigValue& config,
                                                 const RequestContext& context);

}  // namespace keyload
