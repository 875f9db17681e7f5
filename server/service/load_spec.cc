#include "server/service/load_spec.h"

namespace keyload {

bool ExceedsLimits(const KeyCounts& counts, const Limits& limits) {
  return (limits.max_missing && counts.missing > *limits.max_missing) ||
         (limits.max_unexpected && counts.unexpected > *limits.max_unexpected) ||
         (limits.max_mismatched && counts.mismatched > *limits.max_mismatched);
}

}  // namespace keyload
