#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "server/audit/finding.h"

namespace keyload {

// metadata.total_size of an index file's text; nothing where it is no whole number, as some writers make of it what
// they like. The text's capacity grows by what the parser needs behind it.
std::optional<uint64_t> TotalSizeOf(std::string index_json);

// "total_size": a remark where the tensors have fewer bytes than the index says. Published indexes are wrong too often,
// those of quantised copies above all, to take it for more.
std::optional<Finding> CompareTotalSize(uint64_t said_bytes, uint64_t stored_bytes);

}  // namespace keyload
