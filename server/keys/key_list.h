#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace keyload {

// Many exact names, in one block of memory: the names one behind the other in order, each once, and where each ends.
// That costs the names' bytes and four more for each, where a vector of strings costs 32 and more. Immutable.
class KeyList {
 public:
  // Of a text with one name a line; a byte order mark, carriage returns and empty lines are left out. BAD_REQUEST says
  // what the text is instead (FORMAT_NOT_SUPPORTED for weights and archives), or names the first line that no key can
  // be: with NUL, over 4096 bytes, or not UTF-8. DOCUMENT_TOO_LARGE: more than `max_keys` lines.
  static absl::StatusOr<KeyList> Parse(std::string_view text, size_t max_keys);
  // What Parse takes at most while it works, its result included.
  static uint64_t ParseBytes(std::string_view text);

  size_t size() const { return ends_.size(); }
  std::string_view operator[](size_t i) const {
    const uint32_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(names_).substr(begin, ends_[i] - begin);
  }
  bool Contains(std::string_view name) const;
  uint64_t memory_bytes() const { return names_.capacity() + ends_.capacity() * sizeof(uint32_t) + sizeof(*this); }

 private:
  std::string names_;
  std::vector<uint32_t> ends_;  // in names_
};

}  // namespace keyload
