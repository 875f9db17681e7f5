#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/generated_enum_reflection.h"

namespace keyload::cli {

// An enum value without its type's prefix: LOAD_REPORT's OUTCOME_COMPLETE is "COMPLETE". A number that this version
// does not know is printed as digits.
std::string EnumWord(const google::protobuf::EnumDescriptor& type, int number);

template <typename Enum>
std::string EnumWord(Enum value) {
  return EnumWord(*google::protobuf::GetEnumDescriptor<Enum>(), static_cast<int>(value));
}

// The other way, in any case and with "-" for "_": "on-demand" is RESERVE_ON_DEMAND. UsageError that names `flag` and
// lists the words otherwise; the unspecified value has no word.
absl::StatusOr<int> ParseEnumWord(const google::protobuf::EnumDescriptor& type, std::string_view word,
                                  std::string_view flag);

template <typename Enum>
absl::StatusOr<Enum> ParseEnumWord(std::string_view word, std::string_view flag) {
  absl::StatusOr<int> number = ParseEnumWord(*google::protobuf::GetEnumDescriptor<Enum>(), word, flag);
  if (!number.ok()) return std::move(number).status();
  return static_cast<Enum>(*number);
}

}  // namespace keyload::cli
