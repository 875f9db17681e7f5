#pragma once

#include <cstdint>
#include <string>

namespace keyload {

// Bytes that this process may use: the smallest of MemTotal and the limits of its cgroups and their parents (v1 and
// v2). `root` stands before /proc and /sys, so that tests can make their own; "" in the daemon. 0 when not even
// /proc/meminfo can be read.
uint64_t HostMemoryLimit(const std::string& root);

}  // namespace keyload
