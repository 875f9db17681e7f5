#pragma once

#include <cstdint>

namespace keyload {

// To a multiple of `unit`, which is not 0. RoundUp: `value` + `unit` does not overflow.
constexpr uint64_t RoundDown(uint64_t value, uint64_t unit) { return value / unit * unit; }
constexpr uint64_t RoundUp(uint64_t value, uint64_t unit) { return RoundDown(value + unit - 1, unit); }

}  // namespace keyload
