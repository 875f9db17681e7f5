#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/checkpoint/name_table.h"
#include "server/keys/name_arena.h"
#include "server/keys/reconcile.h"
#include "server/keys/rename_rules.h"

namespace keyload {

// A model's keys by name. Borrows the manifest. Not thread-safe: lookups share a scratch buffer and make the table.
class ModelNames {
 public:
  ModelNames(const Manifest& manifest, std::string_view base_prefix);

  // Position in Manifest::tensors, or -1.
  int64_t Find(std::string_view name);
  // The same: the exact name first, then without the base prefix, then with it. Prefixes end at a dot only.
  int64_t FindWithPrefix(std::string_view name);

 private:
  const std::vector<TensorSpec>& tensors_;
  std::optional<NameTable> by_name_;  // once a name is asked for that does not follow the one before
  size_t next_ = 0;                   // after the position found last: stored keys often come in the manifest's order
  std::string prefix_;                // with its dot; empty: none
  std::string scratch_;
};

// Two stored keys became one model key.
absl::Status KeyConflict(const CheckpointIndex& index, std::string_view model_key, int64_t first, int64_t second);

class KeyConverter;

// Sets ModelKey::stored of every key of `keys` (those of the manifest, in its order) that `index` has after `renames`
// and the prefix rule and that `converter` does not take, and returns what no expected key takes: in stored order, with
// `ignored` set where it is a non-persistent buffer. KEY_CONFLICT; PATTERN_INVALID from the renames; what `check` says.
absl::StatusOr<std::vector<UnexpectedKey>> MapStoredKeys(const CheckpointIndex& index, const RenameRules& renames,
                                                         ModelNames& names, NameArena& arena, SearchWork& work,
                                                         KeyConverter& converter, PeriodicCheck& check,
                                                         std::vector<ModelKey>& keys);

// What the checkpoint itself has, as expected keys in natural order; those that only the index file names have no
// stored tensor. KEY_CONFLICT; PATTERN_INVALID from the renames; what `check` says.
absl::StatusOr<std::vector<ModelKey>> KeysOfCheckpoint(const CheckpointIndex& index, const RenameRules& renames,
                                                       NameArena& arena, SearchWork& work, PeriodicCheck& check);

}  // namespace keyload
