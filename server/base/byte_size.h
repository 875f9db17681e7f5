#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace keyload {

// "20GiB", "512MiB", "1.5GB", "4096": a number of bytes. Suffixes KiB MiB GiB TiB (or Ki Mi Gi Ti) are binary, KB MB GB
// TB decimal, in any case, with or without a space before them; no suffix means bytes. BAD_REQUEST on anything else, on
// negative numbers and on overflow. (accelerate reads a final lower-case "b" as bits; keyload does not.)
absl::StatusOr<uint64_t> ParseByteSize(std::string_view text);

// For people, in binary units with at most one decimal: "90.9 MiB", "512 B".
std::string FormatByteSize(uint64_t bytes);

}  // namespace keyload
