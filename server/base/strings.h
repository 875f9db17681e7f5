#pragma once

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace keyload {

// Debian builds abseil for C++14, where absl::string_view is a class of its own that std::string_view does not convert
// to. These are the bridge; the views borrow from their argument.
inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view ToStd(absl::string_view text) { return {text.data(), text.size()}; }

namespace strings_internal {
template <typename T>
decltype(auto) Piece(const T& value) {
  if constexpr (std::is_convertible_v<const T&, std::string_view>) {
    return ToAbsl(value);
  } else {
    return (value);
  }
}
}  // namespace strings_internal

// absl::StrCat and absl::StrAppend that take std::string_view too.
template <typename... T>
std::string StrCat(const T&... pieces) {
  return absl::StrCat(strings_internal::Piece(pieces)...);
}
template <typename... T>
void StrAppend(std::string* target, const T&... pieces) {
  absl::StrAppend(target, strings_internal::Piece(pieces)...);
}

}  // namespace keyload
