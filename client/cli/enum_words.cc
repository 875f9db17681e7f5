#include "client/cli/enum_words.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "client/cli/exit_code.h"

namespace keyload::cli {
namespace {

// Every enum of the contract starts with NAME_UNSPECIFIED = 0; NAME_ is the prefix of all its values.
std::string Prefix(const google::protobuf::EnumDescriptor& type) {
  constexpr std::string_view kZero = "UNSPECIFIED";
  std::string name = type.value(0)->name();
  if (std::string_view(name).ends_with(kZero)) name.resize(name.size() - kZero.size());
  return name;
}

}  // namespace

std::string EnumWord(const google::protobuf::EnumDescriptor& type, int number) {
  const auto* value = type.FindValueByNumber(number);
  return value == nullptr ? std::to_string(number) : value->name().substr(Prefix(type).size());
}

absl::StatusOr<int> ParseEnumWord(const google::protobuf::EnumDescriptor& type, std::string_view word,
                                  std::string_view flag) {
  std::string prefix = Prefix(type);
  std::string wanted = prefix + absl::AsciiStrToUpper(std::string(word));
  std::replace(wanted.begin(), wanted.end(), '-', '_');
  const auto* value = type.FindValueByName(wanted);
  if (value != nullptr && value->number() != 0) return value->number();
  std::string known;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() == 0) continue;
    if (!known.empty()) known += ", ";
    known += absl::AsciiStrToLower(type.value(i)->name().substr(prefix.size()));
  }
  return UsageError(absl::StrFormat("%s: \"%s\" is not one of: %s", flag, word, known));
}

}  // namespace keyload::cli
