#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/audit/finding.h"
#include "server/base/request_context.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/keys/manifest.h"
#include "server/keys/reconcile.h"

namespace keyload {

// The keys of another checkpoint as what a model must have: the way to check a fine-tune by its base, or a copy by its
// original, where nothing else says which keys there are. Names, shapes and dtypes are those that are stored.
// BAD_REQUEST for more than kMaxExpectedKeys; the context's errors.
absl::StatusOr<std::shared_ptr<const Manifest>> ManifestOf(const CheckpointIndex& like, const RequestContext& context);

// One remark for each pair of dtypes in which keys that are found differ from what is expected. `like` is the other
// checkpoint, for people. The context's errors.
absl::StatusOr<std::vector<Finding>> CompareDTypes(const KeyReport& keys, std::string_view like,
                                                   const RequestContext& context);

}  // namespace keyload
