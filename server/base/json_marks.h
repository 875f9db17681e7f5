#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace keyload {

// What a JSON text is made of, outside of its strings: enough to bound what a parser takes for it before it runs, as a
// few bytes can become many values. Linear; the text need not be valid.
struct JsonMarks {
  uint64_t objects = 0;
  uint64_t values = 0;  // of lists and objects
  size_t depth = 0;
};

inline JsonMarks CountJsonMarks(std::string_view json) {
  JsonMarks marks;
  size_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (c == '"') in_string = !in_string;
    if (in_string) {
      i += c == '\\';
      continue;
    }
    marks.objects += c == '{';
    marks.values += c == ',' || c == '{' || c == '[';
    if (c == '{' || c == '[') marks.depth = std::max(marks.depth, ++depth);
    if ((c == '}' || c == ']') && depth > 0) --depth;
  }
  return marks;
}

}  // namespace keyload
