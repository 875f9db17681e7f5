#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/keys/conversion_rules.h"
#include "server/keys/key_mapping.h"
#include "server/keys/name_arena.h"
#include "server/keys/reconcile.h"

namespace keyload {

// Collects the stored keys that conversions take, then makes keys of them. Linear in the stored keys. Borrows all that
// it is given. Not thread-safe.
//
// Use: Take every stored key, then Finish, and Explain once the states of the keys are known.
class KeyConverter {
 public:
  // What it collects counts as the heap of `context`; null: nowhere.
  KeyConverter(const CheckpointIndex& index, const ConversionRules& rules, ModelNames& names, NameArena& arena,
               const RequestContext* context, KeyReport& report);

  // Whether a conversion takes the stored key, which has `name` after the renames: one is found in it, and all that it
  // makes are persistent keys of the model. KEY_CONFLICT; MEMORY_EXHAUSTED.
  absl::StatusOr<bool> Take(uint32_t stored, std::string_view name);
  // What Take(name) or Wants(name) may cost, for PeriodicCheck.
  uint64_t CostOf(std::string_view name) const { return rules_.empty() ? 0 : rules_.CostOf(name); }
  // Whether a stored key of this name after the renames would be a part of a key of the model.
  bool Wants(std::string_view name) const;
  // Sets `stored` and `made` of the keys that are made of what was taken, but for those that lack some of it.
  // KEY_CONFLICT; FIELD_NOT_SUPPORTED; what `check` returns.
  absl::Status Finish(PeriodicCheck& check);
  // Warns about selected keys that are missing because they lack some of what they are made of, or mismatched because
  // it does not fit together: what it is, for the first few.
  void Explain();

 private:
  // What becomes one name, and with it the keys that are made of it.
  struct Group {
    uint32_t conversion = 0;
    uint32_t first = 0;                         // the first stored key taken
    std::vector<uint32_t> targets;              // indices into KeyReport::keys; empty: not all are keys
    std::vector<std::vector<uint32_t>> inputs;  // per source: stored keys, in natural order
    bool in_trouble = false;                    // its keys lack some of it, or it does not fit together
  };
  struct Taken {
    int32_t group = -1;
    uint32_t source = 0;
  };

  absl::StatusOr<int32_t> AddGroup(uint32_t stored, std::string_view name, const ConversionRules::Match& match);
  std::vector<Shape> ShapesOf(const Group& group) const;
  absl::Status MakeKeys(Group& group);
  // Why its keys cannot be made: found again for the few groups that are explained.
  std::string TroubleOf(const Group& group) const;

  const CheckpointIndex& index_;
  const ConversionRules& rules_;
  ModelNames& names_;
  NameArena& arena_;
  const RequestContext* const context_;
  PeriodicCheck check_;
  KeyReport& report_;
  std::vector<Group> groups_;
  std::vector<Taken> taken_;                                              // per stored key
  std::vector<absl::flat_hash_map<std::string_view, int32_t>> group_of_;  // per conversion, by its first target's name
  absl::flat_hash_map<std::string_view, uint32_t> name_taken_;            // who has a name after the renames
  absl::flat_hash_map<uint32_t, uint32_t> claimed_;                       // key -> the first stored key of its group
};

}  // namespace keyload
