#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace keyload {

// The names of one finding, so that a report stays small however many keys a rule is about.
inline constexpr size_t kNamesInFinding = 10;

// What one rule says about a checkpoint without knowing its model: suspicion, not proof. A value.
struct Finding {
  std::string rule;                // "gap", "alike", "layers", ...: those of the contract
  std::string message;             // one sentence for people: what lacks, and why it seems so
  uint64_t count = 0;              // of what `names` names, all of them
  std::vector<std::string> names;  // the first ones in natural order: keys, or modules where whole ones lack
  bool lacks = false;              // keys are lacking, as far as the rule can tell; false: a remark
};

}  // namespace keyload
