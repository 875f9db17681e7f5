#include "server/device/host_memory_limit.h"

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace keyload {
namespace {

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();
constexpr uint64_t kMostScratch = 256ull << 20;
// Room for the heap of requests and plans, for thread stacks, page tables and sockets, and for the code to stay in
// memory. Half of it is kept free while loads run; the other half is what they may find used when they begin.
constexpr uint64_t kProcessShare = 64ull << 20;

uint64_t Minus(uint64_t from, uint64_t bytes) { return from - std::min(from, bytes); }

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// The number behind `name` in lines such as "MemTotal:  12 kB" or "active_file 12", without regard to its unit.
std::optional<uint64_t> FindEntry(absl::string_view text, absl::string_view name) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::StartsWith(line, name)) continue;
    const std::vector<absl::string_view> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    uint64_t value;
    if (words.size() >= 2 && words[0] == name && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return std::nullopt;
}

// The same for a file that counts in "kB", in bytes.
std::optional<uint64_t> FindKib(absl::string_view text, absl::string_view name) {
  const std::optional<uint64_t> kib = FindEntry(text, name);
  return kib && *kib <= kUnlimited / 1024 ? std::optional(*kib * 1024) : std::nullopt;
}

// Nothing for a file that is absent or says "max".
std::optional<uint64_t> ReadNumber(const std::string& path) {
  uint64_t number;
  const std::string text = ReadText(path);
  return absl::SimpleAtoi(absl::StripAsciiWhitespace(text), &number) ? std::optional(number) : std::nullopt;
}

// How the memory controller's files are called in the two versions of control groups.
struct CgroupFiles {
  const char* limit;
  const char* usage;
  // Figures of memory.stat, those that include the groups below.
  std::initializer_list<const char*> page_cache;  // without what is locked or shared memory, which cannot be dropped
  std::initializer_list<const char*> unwritten;   // part of it that must be written to a disk first
};
constexpr CgroupFiles kV1 = {"memory.limit_in_bytes",
                             "memory.usage_in_bytes",
                             {"total_active_file", "total_inactive_file"},
                             {"total_dirty", "total_writeback"}};
constexpr CgroupFiles kV2 = {
    "memory.max", "memory.current", {"active_file", "inactive_file"}, {"file_dirty", "file_writeback"}};

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

// What `group` may use still, page cache that it can drop at once counted as free.
uint64_t FreeBytes(const LimitedGroup& group) {
  const std::string statistics = ReadText(absl::StrCat(group.folder, "/memory.stat"));
  const auto sum = [&](std::initializer_list<const char*> names) {
    uint64_t bytes = 0;
    for (const char* name : names) bytes += FindEntry(statistics, name).value_or(0);
    return bytes;
  };
  const uint64_t used = ReadNumber(absl::StrCat(group.folder, "/", group.files->usage)).value_or(0);
  const uint64_t droppable = Minus(sum(group.files->page_cache), sum(group.files->unwritten));
  return Minus(group.limit, Minus(used, droppable));
}

}  // namespace

std::vector<MemoryBound> HostMemoryBounds(const std::string& root) {
  const std::string meminfo = ReadText(root + "/proc/meminfo");
  const std::optional<uint64_t> total = FindKib(meminfo, "MemTotal:");
  if (!total) return {};
  std::vector<MemoryBound> bounds = {
      {.limit = *total, .free = FindKib(meminfo, "MemAvailable:").value_or(0), .is_machine = true}};
  for (const LimitedGroup& group : LimitedGroups(root)) {
    if (group.limit < *total) bounds.push_back({.limit = group.limit, .free = FreeBytes(group), .is_machine = false});
  }
  return bounds;
}

uint64_t HostMemoryLimit(const std::string& root) {
  uint64_t limit = kUnlimited;
  for (const MemoryBound& bound : HostMemoryBounds(root)) limit = std::min(limit, bound.limit);
  return limit == kUnlimited ? 0 : limit;
}

uint64_t HostMemoryHeadroom(const std::string& root) {
  uint64_t headroom = kUnlimited;
  for (const MemoryBound& bound : HostMemoryBounds(root)) {
    headroom = std::min(headroom, Minus(bound.free, bound.limit / 10));
  }
  return headroom == kUnlimited ? 0 : headroom;
}

HostMemoryShares DivideHostMemory(uint64_t limit, uint64_t used, uint64_t tables, std::optional<uint64_t> scratch,
                                  std::optional<uint64_t> capacity) {
  HostMemoryShares shares;
  const uint64_t process = std::min(kProcessShare, limit / 4);
  shares.process = process / 2;
  shares.scratch = scratch.value_or(limit == 0 ? kMostScratch : std::min(kMostScratch, limit / 8));
  const uint64_t others = used + shares.scratch + process + std::min(tables, limit / 4);
  shares.capacity = capacity.value_or(std::min(limit / 10 * 9, Minus(limit, others)));
  return shares;
}

uint64_t ProcessMemory() { return FindKib(ReadText("/proc/self/status"), "RssAnon:").value_or(0); }

}  // namespace keyload
