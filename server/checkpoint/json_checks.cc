#include "server/checkpoint/json_checks.h"

#include <simdjson.h>

#include <cstring>

namespace keyload {
namespace {

constexpr size_t kMaxShown = 512;

}  // namespace

const char* KeyProblem(std::string_view key) {
  if (key.size() > kMaxKeyBytes) return "the name is longer than 4096 bytes";
  if (!key.empty() && std::memchr(key.data(), '\0', key.size()) != nullptr) return "the name has a NUL in it";
  if (!simdjson::validate_utf8(key.data(), key.size())) return "the name is not valid Unicode";
  return nullptr;
}

std::string Shortened(std::string_view text) {
  if (text.size() <= kMaxShown) return std::string(text);
  size_t end = kMaxShown;
  while (end > 0 && (text[end] & 0xC0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "...";
}

}  // namespace keyload
