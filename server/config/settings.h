#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/config/config.h"

namespace keyload {

// What a setting's value looks like in a file. Flags and the environment give text for every kind.
enum class SettingKind {
  kText,    // a string
  kSize,    // a string such as "20GiB", or an integer: bytes
  kCount,   // an integer
  kList,    // an array of strings
  kSwitch,  // true or false; the flag alone means true
};

// One thing that can be configured, under the same name in flags, environment and file.
struct Setting {
  std::string_view flag;      // "--listen"
  std::string_view variable;  // "KEYLOADD_LISTEN"
  std::string_view key;       // "listen"
  SettingKind kind;
  char separator;                // between a list's elements in the environment
  std::string_view placeholder;  // of the value, in the help
  std::string_view help;
  // Checks `values` (exactly one unless kList) and stores them. The error does not name where they came from.
  absl::Status (*apply)(absl::Span<const std::string> values, Config& config);
  bool (*same)(const Config& first, const Config& second);
  // Takes the setting over from another configuration; null for what cannot change while the daemon runs.
  void (*adopt)(const Config& from, Config& to);
};

absl::Span<const Setting> AllSettings();

}  // namespace keyload
