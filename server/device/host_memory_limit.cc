#include "server/device/host_memory_limit.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "server/device/device.h"

namespace keyload {
namespace {

std::optional<uint64_t> ReadMemTotal(const std::string& path) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    uint64_t kib;
    if (words.size() >= 2 && words[0] == "MemTotal:" && absl::SimpleAtoi(words[1], &kib) &&
        kib <= std::numeric_limits<uint64_t>::max() / 1024) {
      return kib * 1024;
    }
  }
  return std::nullopt;
}

// The smallest number in the files `name` of the cgroup `path` below `mount` and of its parents. A parent's limit holds
// for its children, and in a container the path may be the host's, of which only the top is mounted.
uint64_t SmallestLimit(const std::string& mount, const std::string& path, const char* name) {
  uint64_t smallest = std::numeric_limits<uint64_t>::max();
  std::string folder = mount;
  const auto visit = [&] {
    std::ifstream file(absl::StrCat(folder, "/", name));
    std::string text;
    uint64_t limit;
    if (std::getline(file, text) && absl::SimpleAtoi(text, &limit))
      smallest = std::min(smallest, limit);  // "max" is none
  };
  visit();
  for (const absl::string_view part : absl::StrSplit(path, '/', absl::SkipEmpty())) {
    if (part == "..") return smallest;  // outside of this process's cgroup namespace
    absl::StrAppend(&folder, "/", part);
    visit();
  }
  return smallest;
}

}  // namespace

uint64_t HostMemoryLimit(const std::string& root) {
  const std::optional<uint64_t> total = ReadMemTotal(root + "/proc/meminfo");
  if (!total) return 0;
  uint64_t limit = *total;
  std::ifstream cgroups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(cgroups, line);) {
    // "hierarchy:controllers:path"; v2 is "0::path".
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    if (fields[0] == "0" && fields[1].empty()) {
      limit = std::min(limit, SmallestLimit(root + "/sys/fs/cgroup", fields[2], "memory.max"));
    }
    for (const absl::string_view controller : absl::StrSplit(fields[1], ',')) {
      if (controller != "memory") continue;
      limit = std::min(limit, SmallestLimit(root + "/sys/fs/cgroup/memory", fields[2], "memory.limit_in_bytes"));
    }
  }
  return limit;
}

uint64_t DefaultHostCapacity() { return HostMemoryLimit("") / 10 * 9; }

}  // namespace keyload
