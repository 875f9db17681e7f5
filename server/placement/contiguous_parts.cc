#include "server/placement/contiguous_parts.h"

#include <algorithm>
#include <cstddef>

namespace keyload {
namespace {

using Wide = unsigned __int128;

constexpr int kFillBits = 62;
constexpr uint64_t kFull = uint64_t{1} << kFillBits;

struct Fraction {
  uint64_t bytes = 0;
  uint64_t limit = 1;
};

bool Less(const Fraction& a, const Fraction& b) { return Wide{a.bytes} * b.limit < Wide{b.bytes} * a.limit; }

class Cutter {
 public:
  Cutter(const std::vector<uint64_t>& part_bytes, const std::vector<uint64_t>& limits)
      : limits_(limits), sums_(part_bytes.size() + 1, 0) {
    for (size_t i = 0; i < part_bytes.size(); ++i) sums_[i + 1] = sums_[i] + part_bytes[i];
  }

  std::vector<uint32_t> Cut() {
    std::vector<uint32_t> best = Fill([](uint64_t limit) { return limit; });
    count_ = best.empty() ? 0 : best.back();
    // Between two fills that differ by less than this step there may still be a few exact ones.
    for (uint64_t infeasible = 0, feasible = kFull; feasible - infeasible > 1;) {
      const uint64_t fill = infeasible + (feasible - infeasible) / 2;
      std::vector<uint32_t> ends =
          Fill([fill](uint64_t limit) { return static_cast<uint64_t>(Wide{limit} * fill >> kFillBits); });
      if (!HoldsAll(ends)) {
        infeasible = fill;
        continue;
      }
      feasible = fill;
      best = std::move(ends);
    }
    while (true) {
      const Fraction largest = LargestFill(best);
      if (largest.bytes == 0) return best;
      std::vector<uint32_t> ends = Fill([&largest](uint64_t limit) {
        return static_cast<uint64_t>((Wide{largest.bytes} * limit - 1) / largest.limit);
      });
      if (!HoldsAll(ends))
        return Fill(
            [&largest](uint64_t limit) { return static_cast<uint64_t>(Wide{largest.bytes} * limit / largest.limit); });
      best = std::move(ends);
    }
  }

 private:
  // Each device takes what follows as long as it fits: no other cut gets further with the same capacities.
  template <typename Capacity>
  std::vector<uint32_t> Fill(Capacity capacity) const {
    std::vector<uint32_t> ends;
    ends.reserve(limits_.size());
    size_t begin = 0;
    for (const uint64_t limit : limits_) {
      const uint64_t last = sums_[begin] + std::min(capacity(limit), sums_.back() - sums_[begin]);
      begin = static_cast<size_t>(std::upper_bound(sums_.begin() + static_cast<ptrdiff_t>(begin), sums_.end(), last) -
                                  sums_.begin() - 1);
      if (count_ != kAll) begin = std::min<size_t>(begin, count_);
      ends.push_back(static_cast<uint32_t>(begin));
    }
    return ends;
  }

  bool HoldsAll(const std::vector<uint32_t>& ends) const { return (ends.empty() ? 0 : ends.back()) == count_; }

  Fraction LargestFill(const std::vector<uint32_t>& ends) const {
    Fraction largest;
    uint32_t begin = 0;
    for (size_t d = 0; d < limits_.size(); ++d) {
      const Fraction fill = {.bytes = sums_[ends[d]] - sums_[begin], .limit = limits_[d]};
      if (Less(largest, fill)) largest = fill;
      begin = ends[d];
    }
    return largest;
  }

  static constexpr uint32_t kAll = UINT32_MAX;

  const std::vector<uint64_t>& limits_;
  std::vector<uint64_t> sums_;  // of the parts before
  uint32_t count_ = kAll;       // parts that are cut
};

}  // namespace

std::vector<uint32_t> CutIntoRanges(const std::vector<uint64_t>& part_bytes, const std::vector<uint64_t>& limits) {
  return Cutter(part_bytes, limits).Cut();
}

}  // namespace keyload
