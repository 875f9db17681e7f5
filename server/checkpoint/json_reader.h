#pragma once

#include <simdjson.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "server/checkpoint/header_memory.h"
#include "server/checkpoint/json_buffer.h"

namespace keyload {

// simdjson over one document, with its heap counted. Strings without escapes are views into the document; those with
// escapes go to a buffer of our own, as simdjson writes into the one that it has without asking whether it got it.
// `charge` may be null. Not thread-safe; views live as long as the reader and the document.
class JsonReader {
 public:
  JsonReader(const JsonBuffer& json, HeaderCharge* charge) : json_(json), charge_(charge) {}

  // Counts what parsing takes; once, before Begin. MEMORY_EXHAUSTED names `file`, which outlives the reader.
  absl::Status Prepare(std::string_view file);
  // The parser's errors are for the caller to word, except MEMALLOC, which is NoMemory().
  simdjson::error_code Begin(simdjson::ondemand::document& document);
  absl::Status NoMemory(std::string_view file) const { return refused_.ok() ? NoHeapFor(file) : refused_; }

  simdjson::error_code Unescape(simdjson::ondemand::raw_json_string raw, std::string_view& text) {
    const char* const begin = raw.raw();
    const void* const quote = std::memchr(begin, '"', static_cast<size_t>(json_.data() + json_.size() - begin));
    if (quote == nullptr) return simdjson::STRING_ERROR;
    text = {begin, static_cast<size_t>(static_cast<const char*>(quote) - begin)};
    if (text.empty() || std::memchr(begin, '\\', text.size()) == nullptr) return simdjson::SUCCESS;
    return UnescapeIntoBuffer(raw, text);
  }
  // The same of a value, which must be a string.
  simdjson::error_code GetString(simdjson::ondemand::value value, std::string_view& text) {
    simdjson::ondemand::raw_json_string raw;
    if (simdjson::error_code error = value.get_raw_json_string().get(raw)) return error;
    return Unescape(raw, text);
  }
  // Moves over `value`, whatever it is, and checks that it is valid JSON nested at most 64 deep; the parser's own
  // skipping checks neither.
  simdjson::error_code CheckedSkip(simdjson::ondemand::value value) { return Skip(value, 0); }

 private:
  simdjson::error_code Skip(simdjson::ondemand::value value, int depth);
  simdjson::error_code SkipArray(simdjson::ondemand::value value, int depth);
  simdjson::error_code SkipObject(simdjson::ondemand::value value, int depth);
  simdjson::error_code UnescapeIntoBuffer(simdjson::ondemand::raw_json_string raw, std::string_view& text);

  const JsonBuffer& json_;
  std::string_view file_;
  TemporaryCharge charge_;
  absl::Status refused_;  // why UnescapeIntoBuffer got no buffer
  simdjson::ondemand::parser parser_;
  std::unique_ptr<uint8_t[]> strings_;  // null until a string has escapes
  uint8_t* next_string_ = nullptr;
};

// How many places of `json` simdjson's first pass notes at most, at four bytes each: brackets, commas, colons, and
// where strings and other values begin.
size_t MostJsonTokens(std::string_view json);

}  // namespace keyload
