#pragma once

#include <simdjson.h>

#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "server/checkpoint/header_memory.h"
#include "server/checkpoint/json_buffer.h"

namespace keyload {

// simdjson over one document, with its heap counted, and with a buffer of our own for unescaped strings: simdjson has
// one too, and writes into it without asking whether it got it. `charge` may be null. Not thread-safe; views of strings
// live as long as it does.
class JsonReader {
 public:
  JsonReader(const JsonBuffer& json, HeaderCharge* charge) : json_(json), charge_(charge) {}

  // Begins to parse; once. The parser's own error is for the caller to word. MEMORY_EXHAUSTED names `file`.
  absl::Status Prepare(std::string_view file);
  simdjson::error_code Begin(simdjson::ondemand::document& document);

  // The unescaped string, kept.
  simdjson::error_code Unescape(simdjson::ondemand::raw_json_string raw, std::string_view& text);
  // The same of a value, which must be a string.
  simdjson::error_code GetString(simdjson::ondemand::value value, std::string_view& text);
  // Moves over `value`, whatever it is, and checks that it is valid JSON nested at most 64 deep; the parser's own
  // skipping checks neither.
  simdjson::error_code CheckedSkip(simdjson::ondemand::value value) { return Skip(value, 0); }

 private:
  simdjson::error_code Skip(simdjson::ondemand::value value, int depth);
  simdjson::error_code SkipArray(simdjson::ondemand::value value, int depth);
  simdjson::error_code SkipObject(simdjson::ondemand::value value, int depth);
  simdjson::error_code CheckString(simdjson::ondemand::raw_json_string raw);

  const JsonBuffer& json_;
  TemporaryCharge charge_;
  simdjson::ondemand::parser parser_;
  std::unique_ptr<uint8_t[]> strings_;
  uint8_t* next_string_ = nullptr;
};

// How many places of `json` simdjson's first pass notes at most, at four bytes each: brackets, commas, colons, and
// where strings and other values begin.
size_t MostJsonTokens(std::string_view json);

}  // namespace keyload
