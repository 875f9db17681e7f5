#include "server/checkpoint/json_checks.h"

#include <cstring>

namespace keyload {
namespace {

using simdjson::error_code;
namespace ondemand = simdjson::ondemand;

constexpr int kMaxDepth = 64;
constexpr size_t kMaxShown = 512;

error_code Skip(ondemand::value value, int depth);

error_code SkipArray(ondemand::value value, int depth) {
  ondemand::array array;
  if (error_code error = value.get_array().get(array)) return error;
  for (auto item : array) {
    ondemand::value element;
    if (error_code error = std::move(item).get(element)) return error;
    if (error_code error = Skip(element, depth + 1)) return error;
  }
  return simdjson::SUCCESS;
}

error_code SkipObject(ondemand::value value, int depth) {
  ondemand::object object;
  if (error_code error = value.get_object().get(object)) return error;
  for (auto item : object) {
    ondemand::field field;
    if (error_code error = std::move(item).get(field)) return error;
    std::string_view key;
    if (error_code error = field.unescaped_key().get(key)) return error;
    if (error_code error = Skip(field.value(), depth + 1)) return error;
  }
  return simdjson::SUCCESS;
}

error_code Skip(ondemand::value value, int depth) {
  if (depth > kMaxDepth) return simdjson::DEPTH_ERROR;
  ondemand::json_type type;
  if (error_code error = value.type().get(type)) return error;
  switch (type) {
    case ondemand::json_type::array:
      return SkipArray(value, depth);
    case ondemand::json_type::object:
      return SkipObject(value, depth);
    case ondemand::json_type::string:
      return value.get_string().error();
    case ondemand::json_type::number:
      return value.get_double().error();
    case ondemand::json_type::boolean:
      return value.get_bool().error();
    case ondemand::json_type::null:
      return value.is_null().error();
  }
  return simdjson::TAPE_ERROR;
}

}  // namespace

error_code CheckedSkip(ondemand::value value) { return Skip(value, 0); }

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
