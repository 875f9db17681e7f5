#include "server/keys/natural_order.h"

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace keyload {
namespace {

bool IsNumber(std::string_view component) {
  return !component.empty() &&
         std::all_of(component.begin(), component.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// By length first, so that numbers of any length compare without being converted.
std::strong_ordering CompareNumbers(std::string_view a, std::string_view b) {
  a.remove_prefix(std::min(a.find_first_not_of('0'), a.size()));
  b.remove_prefix(std::min(b.find_first_not_of('0'), b.size()));
  if (a.size() != b.size()) return a.size() <=> b.size();
  return a <=> b;
}

std::strong_ordering CompareComponents(std::string_view a, std::string_view b) {
  const bool a_number = IsNumber(a);
  const bool b_number = IsNumber(b);
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

}  // namespace

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

}  // namespace keyload
