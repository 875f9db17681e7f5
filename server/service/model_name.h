#pragma once

#include <cstddef>
#include <string_view>

namespace keyload {

// What models and kept device maps may be called.
inline constexpr std::string_view kModelNamePattern = "[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}";
inline constexpr size_t kMostNameBytes = 128;

inline bool IsModelName(std::string_view name) {
  constexpr std::string_view kFirst = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  constexpr std::string_view kRest = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  return !name.empty() && name.size() <= kMostNameBytes && kFirst.find(name[0]) != std::string_view::npos &&
         name.find_first_not_of(kRest) == std::string_view::npos;
}

}  // namespace keyload
