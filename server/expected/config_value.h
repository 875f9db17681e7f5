#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace keyload {

// One value of a config.json. Immutable; truth values are the integers 0 and 1.
struct ConfigValue {
  using List = std::vector<ConfigValue>;
  using Object = std::vector<std::pair<std::string, ConfigValue>>;  // sorted by name, no name twice
  using Data = std::variant<std::monostate, int64_t, double, std::string, List, Object>;

  ConfigValue();  // null
  explicit ConfigValue(Data value);
  // Written out, as the compiler may ask for them while Object is not complete.
  ConfigValue(const ConfigValue& other);
  ConfigValue(ConfigValue&& other) noexcept;
  ConfigValue& operator=(const ConfigValue& other);
  ConfigValue& operator=(ConfigValue&& other) noexcept;
  ~ConfigValue();

  Data data;

  bool is_null() const { return std::holds_alternative<std::monostate>(data); }
  const std::string* text() const { return std::get_if<std::string>(&data); }
  const List* list() const { return std::get_if<List>(&data); }
  const Object* object() const { return std::get_if<Object>(&data); }
  // The member of an object; null where this is no object or has no such member.
  const ConfigValue* Find(std::string_view name) const;
};

// The largest config.json that is read.
inline constexpr uint64_t kMaxConfigBytes = uint64_t{4} << 20;

// The memory that ParseConfigJson takes at most for `text`, its result included.
uint64_t ConfigParseBytes(std::string_view text);

// JSON as Python's json module writes it: NaN (taken for null), Infinity and whole numbers of any length (reals) too.
// CONFIG_INVALID: not JSON, not an object, nested deeper than 64, a name twice in one object, a number that no real
// number is near. `file` is for the message.
absl::StatusOr<ConfigValue> ParseConfigJson(std::string_view text, std::string_view file);

}  // namespace keyload
