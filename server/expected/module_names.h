#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "server/base/strings.h"
#include "server/keys/pattern_set.h"

namespace keyload {

// A list of modules, as quantization_config writes it: whole names, parts of names between dots ("mlp.gate",
// "lm_head"), or "re:PATTERN", RE2 matched from a name's start. Look-ups cost by the length of the name, not of the
// list. Immutable, thread-safe.
class ModuleNames {
 public:
  // PATTERN_INVALID for a pattern, and where all of them are too large to be searched for in many names.
  static absl::StatusOr<ModuleNames> Create(std::vector<std::string> entries);

  bool Matches(std::string_view name) const;
  bool Lists(std::string_view entry) const { return entries_.contains(ToAbsl(entry)); }

 private:
  absl::flat_hash_set<std::string> entries_;
  size_t most_components_ = 0;  // of an entry
  std::shared_ptr<const PatternSet> patterns_;
};

}  // namespace keyload
