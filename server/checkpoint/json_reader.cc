#include "server/checkpoint/json_reader.h"

#include <new>
#include <utility>

namespace keyload {
namespace {

using simdjson::error_code;
namespace ondemand = simdjson::ondemand;

constexpr int kMaxDepth = 64;

// Documents up to this size are taken for all tokens: counting them would cost more than it is worth.
constexpr size_t kCountedTokensFrom = size_t{16} << 20;

// What a byte is, as far as it matters where values begin: as numbers, so that the loop over them has no branch.
struct ByteKinds {
  uint8_t is_quote[256] = {};
  uint8_t is_punctuation[256] = {};
  uint8_t separates[256] = {};
};

// The parser's vectors compare a byte with its bit 0x20 set: they take FF (0x0c) for a comma, and SUB (0x1a) for a
// colon.
constexpr std::string_view kPunctuation = ",:[]{}\x0c\x1a";

constexpr ByteKinds MakeByteKinds() {
  ByteKinds kinds;
  for (const char c : kPunctuation) kinds.is_punctuation[static_cast<uint8_t>(c)] = 1;
  kinds.is_quote['"'] = 1;
  for (const char c : {' ', '\n', '\r', '\t'}) kinds.separates[static_cast<uint8_t>(c)] = 1;
  for (size_t byte = 0; byte < 256; ++byte) {
    kinds.separates[byte] |= kinds.is_punctuation[byte] | kinds.is_quote[byte];
  }
  return kinds;
}

constexpr ByteKinds kKinds = MakeByteKinds();

}  // namespace

size_t MostJsonTokens(std::string_view json) {
  size_t values = 1;  // what begins behind a blank, a quote or punctuation
  size_t punctuation = 0;
  size_t quotes = 0;
  uint8_t begins = 1;
  for (const char c : json) {
    const auto byte = static_cast<uint8_t>(c);
    const uint8_t separates = kKinds.separates[byte];
    values += begins & (separates ^ 1);
    punctuation += kKinds.is_punctuation[byte];
    quotes += kKinds.is_quote[byte];
    begins = separates;
  }
  return values + punctuation + (quotes + 1) / 2;
}

absl::Status JsonReader::Prepare(std::string_view file) {
  file_ = file;
  const size_t tokens = json_.size() < kCountedTokensFrom ? json_.size() : MostJsonTokens({json_.data(), json_.size()});
  return charge_.Add(tokens * sizeof(uint32_t), file);
}

error_code JsonReader::Begin(ondemand::document& document) {
  return parser_.iterate(json_.data(), json_.size(), json_.capacity()).get(document);
}

error_code JsonReader::UnescapeIntoBuffer(ondemand::raw_json_string raw, std::string_view& text) {
  if (strings_ == nullptr) {
    // No string becomes longer, and none is read twice.
    const size_t bytes = json_.size() + JsonBuffer::kPadding;
    refused_ = charge_.Add(bytes, file_);
    if (refused_.ok()) strings_.reset(new (std::nothrow) uint8_t[bytes]);
    if (strings_ == nullptr) return simdjson::MEMALLOC;
    next_string_ = strings_.get();
  }
  return parser_.unescape(raw, next_string_).get(text);
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
    std::string_view unused;
    if (error_code error = Unescape(field.key(), unused)) return error;
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
      std::string_view unused;
      return GetString(value, unused);
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
