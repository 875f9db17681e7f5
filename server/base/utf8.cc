#include "server/base/utf8.h"

#include <algorithm>

namespace keyload {

size_t Utf8SequenceLength(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto continues = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  if (text.empty()) return 0;
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf && continues(1)) return 2;
  if ((first & 0xf0) == 0xe0 && continues(1) && continues(2)) {
    const unsigned code = (first & 0x0f) << 12 | (byte(1) & 0x3f) << 6;
    return code >= 0x800 && (code < 0xd800 || code > 0xdfff) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4 && continues(1) && continues(2) && continues(3)) {
    const unsigned code = (first & 0x07) << 18 | (byte(1) & 0x3f) << 12;
    return code >= 0x10000 && code <= 0x10f000 ? 4 : 0;
  }
  return 0;
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = Utf8SequenceLength(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string ToUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t length = Utf8SequenceLength(text);
    out.append(length > 0 ? text.substr(0, length) : std::string_view("\xef\xbf\xbd"));
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return out;
}

}  // namespace keyload
