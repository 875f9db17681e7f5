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

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

uint64_t Minus(uint64_t from, uint64_t bytes) { return from - std::min(from, bytes); }

// The number behind `name` in lines such as "MemTotal:  12 kB" or "active_file 12", without regard to its unit.
std::optional<uint64_t> ReadEntry(const std::string& path, absl::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    uint64_t value;
    if (words.size() >= 2 && words[0] == name && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return std::nullopt;
}

std::optional<uint64_t> ReadMemInfo(const std::string& root, absl::string_view name) {
  const std::optional<uint64_t> kib = ReadEntry(root + "/proc/meminfo", name);
  return kib && *kib <= kUnlimited / 1024 ? std::optional(*kib * 1024) : std::nullopt;
}

// Nothing for a file that is absent or says "max".
std::optional<uint64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  uint64_t number;
  if (!std::getline(file, text) || !absl::SimpleAtoi(text, &number)) return std::nullopt;
  return number;
}

// How the memory controller's files are called in the two versions of control groups.
struct CgroupFiles {
  const char* limit;
  const char* usage;
  const char* statistics_prefix;  // of figures that include the groups below
};
constexpr CgroupFiles kV1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_"};
constexpr CgroupFiles kV2 = {"memory.max", "memory.current", ""};

struct LimitedGroup {
  std::string folder;
  const CgroupFiles* files;
  uint64_t limit;
};

// Adds the groups with a limit among `path` below `mount` and its parents. A parent's limit holds for its children, and
// in a container the path may be the host's, of which only the top is mounted.
void AddLimitedGroups(const std::string& mount, const std::string& path, const CgroupFiles& files,
                      std::vector<LimitedGroup>& groups) {
  std::string folder = mount;
  const auto visit = [&] {
    const std::optional<uint64_t> limit = ReadNumber(absl::StrCat(folder, "/", files.limit));
    if (limit) groups.push_back({folder, &files, *limit});
  };
  visit();
  for (const absl::string_view part : absl::StrSplit(path, '/', absl::SkipEmpty())) {
    if (part == "..") return;  // outside of this process's cgroup namespace
    absl::StrAppend(&folder, "/", part);
    visit();
  }
}

std::vector<LimitedGroup> LimitedGroups(const std::string& root) {
  std::vector<LimitedGroup> groups;
  std::ifstream cgroups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(cgroups, line);) {
    // "hierarchy:controllers:path"; v2 is "0::path".
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    if (fields[0] == "0" && fields[1].empty()) AddLimitedGroups(root + "/sys/fs/cgroup", fields[2], kV2, groups);
    for (const absl::string_view controller : absl::StrSplit(fields[1], ',')) {
      if (controller == "memory") AddLimitedGroups(root + "/sys/fs/cgroup/memory", fields[2], kV1, groups);
    }
  }
  return groups;
}

// What `group` may still use, page cache that it could drop counted as free.
uint64_t Headroom(const LimitedGroup& group) {
  const std::string statistics = group.folder + "/memory.stat";
  uint64_t used = ReadNumber(absl::StrCat(group.folder, "/", group.files->usage)).value_or(0);
  for (const char* list : {"active_file", "inactive_file"}) {
    used = Minus(used, ReadEntry(statistics, absl::StrCat(group.files->statistics_prefix, list)).value_or(0));
  }
  return Minus(group.limit, used);
}

}  // namespace

uint64_t HostMemoryLimit(const std::string& root) {
  const std::optional<uint64_t> total = ReadMemInfo(root, "MemTotal:");
  if (!total) return 0;
  uint64_t limit = *total;
  for (const LimitedGroup& group : LimitedGroups(root)) limit = std::min(limit, group.limit);
  return limit;
}

uint64_t HostMemoryHeadroom(const std::string& root) {
  const std::optional<uint64_t> total = ReadMemInfo(root, "MemTotal:");
  const std::optional<uint64_t> available = ReadMemInfo(root, "MemAvailable:");
  if (!total || !available) return 0;
  uint64_t headroom = Minus(*available, *total / 10);
  for (const LimitedGroup& group : LimitedGroups(root)) {
    headroom = std::min(headroom, Minus(Headroom(group), std::min(group.limit, *total) / 10));
  }
  return headroom;
}

uint64_t DefaultHostCapacity() { return HostMemoryLimit("") / 10 * 9; }

}  // namespace keyload
