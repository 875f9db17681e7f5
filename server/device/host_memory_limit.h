#pragma once

#include <cstdint>
#include <string>

namespace keyload {

// Bytes that this process may use: the smallest of MemTotal and the limits of its cgroups and their parents (v1 and
// v2). `root` stands before /proc and /sys, so that tests can make their own; "" in the daemon. 0 when not even
// /proc/meminfo can be read.
uint64_t HostMemoryLimit(const std::string& root);

// How many more bytes could be kept in memory without the system or a control group running short: what is available,
// page cache that can be dropped included, less a tenth of each limit. Blocks for reading a few small files of the
// kernel. 0 when /proc/meminfo cannot be read.
uint64_t HostMemoryHeadroom(const std::string& root);

}  // namespace keyload
