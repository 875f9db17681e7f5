#include "server/checkpoint/natural_order.h"

#include <algorithm>
#include <array>
#include <bit>
#include <compare>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace keyload {
namespace {

// By length first, so that numbers of any length compare without being converted.
std::strong_ordering CompareNumbers(std::string_view a, std::string_view b) {
  a.remove_prefix(std::min(a.find_first_not_of('0'), a.size()));
  b.remove_prefix(std::min(b.find_first_not_of('0'), b.size()));
  if (a.size() != b.size()) return a.size() <=> b.size();
  return a <=> b;
}

std::strong_ordering CompareComponents(std::string_view a, std::string_view b) {
  const bool a_number = IsNumberComponent(a);
  const bool b_number = IsNumberComponent(b);
  if (a_number && b_number) return CompareNumbers(a, b);
  if (a_number != b_number) return a_number ? std::strong_ordering::less : std::strong_ordering::greater;
  return a <=> b;
}

// How many bytes a and b have in common at their beginnings; eight at a time, for sorting is bound by it.
size_t CommonLength(std::string_view a, std::string_view b) {
  const size_t length = std::min(a.size(), b.size());
  size_t common = 0;
  for (; common + sizeof(uint64_t) <= length; common += sizeof(uint64_t)) {
    if (std::memcmp(a.data() + common, b.data() + common, sizeof(uint64_t)) != 0) break;
  }
  while (common < length && a[common] == b[common]) ++common;
  return common;
}

// The different components at one position of dotted names.
class Components {
 public:
  uint32_t Number(std::string_view component) {
    const auto [known, inserted] = numbers_.try_emplace(component, static_cast<uint32_t>(texts_.size()));
    if (inserted) texts_.push_back(component);
    return known->second;
  }

  // From 1 on in natural order; equal numbers share a rank, for what follows them decides first.
  void Rank() {
    std::vector<uint32_t> order(texts_.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return CompareComponents(texts_[a], texts_[b]) < 0; });
    ranks_.resize(texts_.size());
    uint32_t rank = 0;
    for (size_t i = 0; i < order.size(); ++i) {
      if (i == 0 || CompareComponents(texts_[order[i - 1]], texts_[order[i]]) != 0) ++rank;
      ranks_[order[i]] = rank;
    }
    bits_ = std::bit_width(rank);
  }
  uint64_t RankOf(uint32_t number) const { return ranks_[number]; }
  int bits() const { return bits_; }

 private:
  absl::flat_hash_map<std::string_view, uint32_t> numbers_;
  std::vector<std::string_view> texts_;
  std::vector<uint32_t> ranks_;
  int bits_ = 0;
};

struct SortKey {
  uint64_t key = 0;
  uint32_t name = 0;
};

// Packs the ranks of the first components of each name into 64 bits, as many as there is room for, so that keys that
// differ order their names.
class SortKeys {
 public:
  explicit SortKeys(std::span<const std::string_view> names) : names_(names) {
    NumberComponents();
    int left = 64;
    for (; packed_ < kLevels; ++packed_) {
      levels_[packed_].Rank();
      left -= levels_[packed_].bits();
      if (left < 0) break;
      shifts_[packed_] = left;
    }
  }

  std::vector<SortKey> Pack() const {
    std::vector<SortKey> keys(names_.size());
    std::array<uint64_t, kLevels + 1> key_before = {};  // of the components before the level
    size_t next = 0;
    for (uint32_t i = 0; i < names_.size(); ++i) {
      const Change change = changes_[i];
      for (uint32_t level = change.first; level < change.end; ++level) {
        const uint32_t number = numbers_[next++];
        key_before[level + 1] = key_before[level];
        if (level < packed_) key_before[level + 1] |= levels_[level].RankOf(number) << shifts_[level];
      }
      keys[i] = {.key = key_before[change.end], .name = i};
    }
    return keys;
  }

 private:
  static constexpr uint32_t kLevels = 24;  // what lies deeper is compared where the rest is equal

  // The components [first, end) of a name are not those of the name before it, or may not be.
  struct Change {
    uint8_t first = 0;
    uint8_t end = 0;
  };

  void NumberComponents() {
    changes_.reserve(names_.size());
    numbers_.reserve(2 * names_.size());
    std::array<size_t, kLevels + 1> begins = {};  // of the components of the name before
    std::string_view before;
    uint32_t end = 0;
    for (const std::string_view name : names_) {
      const size_t common = CommonLength(before, name);
      uint32_t level = 0;
      while (level + 1 <= end && begins[level + 1] <= common) ++level;
      const auto first = static_cast<uint8_t>(level);
      size_t begin = begins[level];
      for (bool more = true; more && level < kLevels; ++level) {
        const size_t dot = std::min(name.find('.', begin), name.size());
        numbers_.push_back(levels_[level].Number(name.substr(begin, dot - begin)));
        more = dot < name.size();
        begin = dot + 1;
        begins[level + 1] = begin;
      }
      end = level;
      before = name;
      changes_.push_back({.first = first, .end = static_cast<uint8_t>(end)});
    }
  }

  const std::span<const std::string_view> names_;
  std::array<Components, kLevels> levels_;
  std::array<int, kLevels> shifts_ = {};
  uint32_t packed_ = 0;  // levels in the key
  std::vector<Change> changes_;
  std::vector<uint32_t> numbers_;  // of the components that changes_ counts
};

// By key, stable: least significant digit first, over the bits that differ.
void RadixSort(std::vector<SortKey>& keys) {
  constexpr int kDigitBits = 11;
  constexpr size_t kDigits = size_t{1} << kDigitBits;
  uint64_t differing = 0;
  for (const SortKey& key : keys) differing |= key.key ^ keys[0].key;
  std::vector<SortKey> sorted(keys.size());
  for (int shift = std::countr_zero(differing); shift < 64 && differing >> shift != 0; shift += kDigitBits) {
    std::array<uint32_t, kDigits + 1> offsets = {};
    for (const SortKey& key : keys) ++offsets[(key.key >> shift) % kDigits + 1];
    std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
    for (const SortKey& key : keys) sorted[offsets[(key.key >> shift) % kDigits]++] = key;
    keys.swap(sorted);
  }
}

}  // namespace

bool IsNumberComponent(std::string_view component) {
  return !component.empty() &&
         std::all_of(component.begin(), component.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool NaturalLess(std::string_view a, std::string_view b) {
  // Keys of one model share long beginnings: the components before the first difference are equal as text.
  const size_t common = CommonLength(a, b);
  if (common == a.size() && common == b.size()) return false;
  const size_t last_dot = a.substr(0, common).rfind('.');
  size_t position_a = last_dot == std::string_view::npos ? 0 : last_dot + 1;
  size_t position_b = position_a;
  while (true) {
    const size_t end_a = std::min(a.find('.', position_a), a.size());
    const size_t end_b = std::min(b.find('.', position_b), b.size());
    const std::strong_ordering order =
        CompareComponents(a.substr(position_a, end_a - position_a), b.substr(position_b, end_b - position_b));
    if (order != std::strong_ordering::equal) return order == std::strong_ordering::less;
    const bool a_ends = end_a == a.size();
    const bool b_ends = end_b == b.size();
    if (a_ends || b_ends) return a_ends == b_ends ? a < b : a_ends;  // "01" and "1" differ in text only
    position_a = end_a + 1;
    position_b = end_b + 1;
  }
}

std::vector<uint32_t> NaturalOrder(std::span<const std::string_view> names) {
  std::vector<SortKey> keys = SortKeys(names).Pack();
  const auto by_key = [](const SortKey& a, const SortKey& b) { return a.key < b.key; };
  if (!std::is_sorted(keys.begin(), keys.end(), by_key)) RadixSort(keys);
  for (auto first = keys.begin(); first != keys.end();) {
    const auto end = std::find_if(first, keys.end(), [&](const SortKey& key) { return key.key != first->key; });
    if (end - first > 1) {
      std::stable_sort(first, end,
                       [&](const SortKey& a, const SortKey& b) { return NaturalLess(names[a.name], names[b.name]); });
    }
    first = end;
  }
  std::vector<uint32_t> order;
  order.reserve(keys.size());
  for (const SortKey& key : keys) order.push_back(key.name);
  return order;
}

std::string WithoutNumbers(std::string_view name) {
  std::string result;
  for (const char c : name) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit) result += c;
    if (digit && !result.ends_with('#')) result += '#';
  }
  return result;
}

}  // namespace keyload
