#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace keyload {

// One of the bounds on the memory of this process: the machine's, or that of a control group which it is in.
struct MemoryBound {
  uint64_t limit = 0;
  // What can be taken still before the kernel begins to kill: page cache that it can drop at once counts as free.
  uint64_t free = 0;
  bool is_machine = false;
};
// The machine's bound, and those of the control groups and their parents (v1 and v2) that are below it. `root` stands
// before /proc and /sys, so that tests can make their own; "" in the daemon. Empty when /proc/meminfo cannot be read.
// Blocks for reading a few small files of the kernel.
std::vector<MemoryBound> HostMemoryBounds(const std::string& root);

// Bytes that this process may use: the smallest of those limits. 0 when not even /proc/meminfo can be read.
uint64_t HostMemoryLimit(const std::string& root);

// How many more bytes could be kept in memory without the system or a control group running short: what is free, less a
// tenth of each limit. 0 when /proc/meminfo cannot be read.
uint64_t HostMemoryHeadroom(const std::string& root);

// How a daemon that may use `limit` bytes, and uses `used` before it has served anybody, divides them.
struct HostMemoryShares {
  uint64_t scratch = 0;   // for bytes on their way to a device
  uint64_t process = 0;   // for what the process needs beyond what it uses and its scratch memory
  uint64_t capacity = 0;  // for models
};
// `tables` is what headers and requests may take, of which at most a quarter of the limit is kept from models.
// `scratch` and `capacity` where the operator has said them.
HostMemoryShares DivideHostMemory(uint64_t limit, uint64_t used, uint64_t tables, std::optional<uint64_t> scratch,
                                  std::optional<uint64_t> capacity);

// The anonymous memory of this process; 0 when it cannot be read.
uint64_t ProcessMemory();

}  // namespace keyload
