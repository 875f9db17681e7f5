#include "server/audit/index_size.h"

#include "server/base/strings.h"

namespace keyload {

std::optional<Finding> CompareTotalSize(uint64_t said_bytes, uint64_t stored_bytes) {
  if (stored_bytes >= said_bytes) return std::nullopt;
  return Finding{
      .rule = "total_size",
      .message = StrCat("the index says total_size ", said_bytes, ", and the tensors have ", stored_bytes,
                        " bytes: ", said_bytes - stored_bytes, " lack, unless the index is that of another version"),
      .count = 0,
      .names = {},
      .lacks = false};
}

}  // namespace keyload
