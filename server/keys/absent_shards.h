#pragma once

#include "absl/status/status.h"
#include "server/base/request_context.h"
#include "server/keys/key_converter.h"
#include "server/keys/key_mapping.h"
#include "server/keys/name_arena.h"
#include "server/keys/reconcile.h"
#include "server/keys/rename_rules.h"

namespace keyload {

// A checkpoint may be opened without some of its shards for a selection that needs none of them. CHECKPOINT_NOT_FOUND,
// which names the shards, where `report`, of which the states are known, lacks a selected key that is in one; also
// where an absent key would be a part of one. Linear in the absent keys. What `check` returns besides.
absl::Status CheckAbsentShards(const RenameRules& renames, ModelNames& names, const KeyConverter& converter,
                               NameArena& arena, SearchWork& work, PeriodicCheck& check, const KeyReport& report);
// The same where the checkpoint's own keys are what is expected.
absl::Status CheckAbsentShards(const RenameRules& renames, NameArena& arena, SearchWork& work, PeriodicCheck& check,
                               const KeyReport& report);

}  // namespace keyload
