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

// Whether a page with `count` elements takes no more: it is `most` long, or would with the next element have `bytes`,
// that one included. A page has at least one element; clients take messages of 4 MiB by default.
inline bool PageIsFull(size_t count, size_t most, size_t bytes) {
  constexpr size_t kPageBytes = 1 << 20;
  return count == most || (count > 0 && bytes > kPageBytes);
}

}  // namespace keyload
