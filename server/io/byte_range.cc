#include "server/io/byte_range.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

#include "server/base/rounding.h"

namespace keyload {

bool CanBeInFile(ByteRange range) {
  constexpr uint64_t most = std::numeric_limits<off_t>::max();
  return range.offset <= most && range.length <= most - range.offset;
}

uint64_t PageBytes() { return static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)); }

std::vector<ByteRange> JoinRanges(std::vector<ByteRange> ranges, uint64_t unit) {
  std::erase_if(ranges, [](const ByteRange& range) { return range.length == 0; });
  const auto before = [](const ByteRange& a, const ByteRange& b) { return a.offset < b.offset; };
  if (!std::is_sorted(ranges.begin(), ranges.end(), before)) std::sort(ranges.begin(), ranges.end(), before);
  size_t joined = 0;
  for (const ByteRange& range : ranges) {
    const uint64_t end = range.offset + range.length;
    if (joined > 0) {
      ByteRange& last = ranges[joined - 1];
      const uint64_t last_end = last.offset + last.length;
      if (RoundDown(range.offset, unit) <= RoundUp(last_end, unit)) {
        last.length = std::max(last_end, end) - last.offset;
        continue;
      }
    }
    ranges[joined++] = range;
  }
  ranges.resize(joined);
  return ranges;
}

uint64_t TotalLength(const std::vector<ByteRange>& ranges) {
  uint64_t total = 0;
  for (const ByteRange& range : ranges) total += range.length;
  return total;
}

}  // namespace keyload
