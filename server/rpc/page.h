#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "server/base/error.h"

namespace keyload {

// How many elements a page of a list has at most: what was asked for, 100 by default, no more than 1,000. BAD_REQUEST
// when `requested` is negative.
inline absl::StatusOr<size_t> PageSize(int32_t requested) {
  constexpr int32_t kDefault = 100;
  constexpr int32_t kMost = 1000;
  if (requested < 0) return MakeError(Reason::kBadRequest, "page_size is negative", {{"field", "page_size"}});
  return requested == 0 ? kDefault : std::min(requested, kMost);
}

}  // namespace keyload
