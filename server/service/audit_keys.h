#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "server/audit/finding.h"
#include "server/base/request_context.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/service/key_sources.h"
#include "server/service/load_spec.h"

namespace keyload {

// Checkpoints with more keys are not looked at: the rules' memory is counted, and no published one comes near.
inline constexpr size_t kMaxAuditedKeys = 500'000;

// What the rules of server/audit say about a checkpoint whose own keys are expected. A config.json beside it is asked
// where it can be read, and is no reason to fail. Blocks on that small file. The context's errors.
absl::StatusOr<std::vector<Finding>> AuditKeys(const LoadSpec& spec, const CheckpointIndex& index,
                                               const KeySources& sources, const RequestContext& context);

}  // namespace keyload
