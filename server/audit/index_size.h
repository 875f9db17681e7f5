#pragma once

#include <cstdint>
#include <optional>

#include "server/audit/finding.h"

namespace keyload {

// "total_size": a remark where the tensors have fewer bytes than the index says. Published indexes are wrong too often,
// those of quantised copies above all, to take it for more.
std::optional<Finding> CompareTotalSize(uint64_t said_bytes, uint64_t stored_bytes);

}  // namespace keyload
