#pragma once

#include <cstdint>

namespace keyload {

// What the kernel says about this process now. 0 where it says nothing.
struct ProcessValues {
  uint64_t resident_bytes = 0;
  uint64_t open_fds = 0;
  double cpu_seconds = 0;  // user and system, all threads
};
// Reads /proc/self; blocks on nothing else. Thread-safe.
ProcessValues ReadProcessValues();

}  // namespace keyload
