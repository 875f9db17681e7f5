#include "server/checkpoint/json_reader.h"

#include <utility>

namespace keyload {
namespace {

using simdjson::error_code;
namespace ondemand = simdjson::ondemand;

constexpr int kMaxDepth = 64;

// Documents up to this size are taken for all tokens: counting them would cost more than it is worth.
constexpr size_t kCountedTokensFrom = size_t{1} << 20;

}  // namespace

size_t MostJsonTokens(std::string_view json) {
  size_t values = 1;  // what begins behind a blank, a quote or punctuation
  size_t punctuation = 0;
  size_t quotes = 0;
  bool begins = true;
  for (const char c : json) {
    const bool is_quote = c == '"';
    const bool is_blank = c == ' ' || c == '\n' || c == '\r' || c == '\t';
    const bool is_punctuation = c == ',' || c == ':' || c == '[' || c == ']' || c == '{' || c == '}';
    const bool separates = is_quote || is_blank || is_punctuation;
    values += begins && !separates;
    punctuation += is_punctuation;
    quotes += is_quote;
    begins = separates;
  }
  return values + punctuation + (quotes + 1) / 2;
}

absl::Status JsonReader::Prepare(std::string_view file) {
  const size_t tokens = json_.size() < kCountedTokensFrom ? json_.size() : MostJsonTokens({json_.data(), json_.size()});
  const size_t string_bytes = json_.size() + JsonBuffer::kPadding;
  if (absl::Status status = charge_.Add(tokens * sizeof(uint32_t) + string_bytes, file); !status.ok()) return status;
  strings_.reset(new uint8_t[string_bytes]);
  next_string_ = strings_.get();
  return absl::OkStatus();
}

error_code JsonReader::Begin(ondemand::document& document) {
  return parser_.iterate(json_.data(), json_.size(), json_.capacity()).get(document);
}

error_code JsonReader::Unescape(ondemand::raw_json_string raw, std::string_view& text) {
  return parser_.unescape(raw, next_string_).get(text);
}

error_code JsonReader::GetString(ondemand::value value, std::string_view& text) {
  ondemand::raw_json_string raw;
  if (error_code error = value.get_raw_json_string().get(raw)) return error;
  return Unescape(raw, text);
}

error_code JsonReader::CheckString(ondemand::raw_json_string raw) {
  uint8_t* unused = next_string_;
  return parser_.unescape(raw, unused).error();
}

error_code JsonReader::SkipArray(ondemand::value value, int depth) {
  ondemand::array array;
  if (error_code error = value.get_array().get(array)) return error;
  for (auto item : array) {
    ondemand::value element;
    if (error_code error = std::move(item).get(element)) return error;
    if (error_code error = Skip(element, depth + 1)) return error;
  }
  return simdjson::SUCCESS;
}

error_code JsonReader::SkipObject(ondemand::value value, int depth) {
  ondemand::object object;
  if (error_code error = value.get_object().get(object)) return error;
  for (auto item : object) {
    ondemand::field field;
    if (error_code error = std::move(item).get(field)) return error;
    if (error_code error = CheckString(field.key())) return error;
    if (error_code error = Skip(field.value(), depth + 1)) return error;
  }
  return simdjson::SUCCESS;
}

error_code JsonReader::Skip(ondemand::value value, int depth) {
  if (depth > kMaxDepth) return simdjson::DEPTH_ERROR;
  ondemand::json_type type;
  if (error_code error = value.type().get(type)) return error;
  switch (type) {
    case ondemand::json_type::array:
      return SkipArray(value, depth);
    case ondemand::json_type::object:
      return SkipObject(value, depth);
    case ondemand::json_type::string: {
      ondemand::raw_json_string raw;
      if (error_code error = value.get_raw_json_string().get(raw)) return error;
      return CheckString(raw);
    }
    case ondemand::json_type::number:
      return value.get_double().error();
    case ondemand::json_type::boolean:
      return value.get_bool().error();
    case ondemand::json_type::null:
      return value.is_null().error();
  }
  return simdjson::TAPE_ERROR;
}

}  // namespace keyload
