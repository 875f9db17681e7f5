#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "server/keys/key_selection.h"

// Input: a glob, a NUL, and the name to match. Beyond not crashing: a glob without special characters selects exactly
// its own text, and what an include selects the same exclude refuses.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t separator = input.find('\0');
  const std::string glob(input.substr(0, separator));
  const std::string_view name = separator == std::string_view::npos ? std::string_view() : input.substr(separator + 1);

  const auto include = keyload::KeySelection::Compile({.include = {glob}});
  if (!include.ok()) return 0;
  const auto exclude = keyload::KeySelection::Compile({.exclude = {glob}});
  if (!exclude.ok() || include->Selects(name) == exclude->Selects(name)) std::abort();
  if (glob.find_first_of("*?[{") == std::string::npos) {
    if (!include->Selects(glob) || include->Selects(name) != (name == glob)) std::abort();
  }
  return 0;
}
