#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/keys/name_arena.h"
#include "server/keys/reconcile.h"
#include "server/keys/rename_rules.h"

namespace keyload {

// A tensor that a model has under several names is stored once by safetensors' save_model, and __metadata__ says under
// which further names the model has it. Those are keys of the checkpoint too, tied to the one that is stored.

// Two keys, as positions in KeyReport::keys.
struct AliasedKey {
  uint32_t alias = 0;
  uint32_t stored = 0;
};

// Whether the checkpoint has any.
bool HasAliases(const CheckpointIndex& index);

// The aliases of the checkpoint that are keys without a stored tensor, and for which `find` gives the position of both
// names after `renames`, or -1. With `shaped` both must have one dtype and shape; else the alias gets those of the
// stored key. PATTERN_INVALID from the renames; what `check` says.
absl::StatusOr<std::vector<AliasedKey>> FindAliasedKeys(const CheckpointIndex& index, const RenameRules& renames,
                                                        absl::FunctionRef<int64_t(std::string_view)> find, bool shaped,
                                                        NameArena& arena, SearchWork& work, PeriodicCheck& check,
                                                        std::vector<ModelKey>& keys);

// Adds `aliased` to groups of tied keys; groups that share a key become one.
void AddToGroups(const std::vector<AliasedKey>& aliased, std::vector<std::vector<uint32_t>>& groups);

}  // namespace keyload
