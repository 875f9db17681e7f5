#include "tests/mock_client/expectation.h"

#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/util/json_util.h"

namespace keyload::mock {
namespace {

using nlohmann::json;

bool IsOperator(const json& expected) {
  return expected.is_object() && expected.size() == 1 && absl::StartsWith(expected.begin().key(), "$");
}

std::optional<double> AsNumber(const json& value) {
  if (value.is_number()) return value.get<double>();
  double number = 0;
  if (value.is_string() && absl::SimpleAtod(value.get<std::string>(), &number)) return number;
  return std::nullopt;
}

absl::Status Differs(const std::string& where, const std::string& wanted, const json& actual) {
  return absl::FailedPreconditionError(
      absl::StrCat(where, ": expected ", wanted, ", got ", actual.dump().substr(0, 400)));
}

bool Contains(const json& actual, const json& part) {
  if (actual.is_string()) return absl::StrContains(actual.get<std::string>(), part.get<std::string>());
  if (!actual.is_array()) return false;
  for (const json& element : actual) {
    if (Match(part, element, "").ok()) return true;
  }
  return false;
}

absl::Status MatchOperator(const json& expected, const json& actual, const std::string& where) {
  const std::string name = expected.begin().key();
  const json& operand = expected.begin().value();
  if (name == "$any_of") {
    for (const json& alternative : operand) {
      if (Match(alternative, actual, where).ok()) return absl::OkStatus();
    }
    return Differs(where, expected.dump(), actual);
  }
  bool holds = false;
  if (name == "$contains") {
    holds = Contains(actual, operand);
  } else if (name == "$length") {
    holds = actual.is_array() && actual.size() == operand.get<size_t>();
  } else if (const std::optional<double> number = AsNumber(actual)) {
    holds = name == "$at_least" ? *number >= operand.get<double>() : *number <= operand.get<double>();
  }
  return holds ? absl::OkStatus() : Differs(where, expected.dump(), actual);
}

absl::Status ValidateOperator(const json& expected, const std::string& where) {
  const std::string name = expected.begin().key();
  const json& operand = expected.begin().value();
  if ((name == "$at_least" || name == "$at_most") && operand.is_number()) return absl::OkStatus();
  if (name == "$length" && operand.is_number_unsigned()) return absl::OkStatus();
  if (name == "$contains" && (operand.is_string() || operand.is_object())) return absl::OkStatus();
  if (name == "$any_of" && operand.is_array()) {
    for (const json& alternative : operand) {
      if (absl::Status status = ValidateExpectation(alternative, where); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(where, ": unknown operator or wrong operand: ", expected.dump()));
}

}  // namespace

absl::Status ValidateExpectation(const json& expected, const std::string& where) {
  if (IsOperator(expected)) return ValidateOperator(expected, where);
  if (expected.is_object()) {
    for (const auto& [name, value] : expected.items()) {
      if (absl::StartsWith(name, "$")) {
        return absl::InvalidArgumentError(absl::StrCat(where, ": ", name, " stands beside other fields"));
      }
      if (absl::Status status = ValidateExpectation(value, absl::StrCat(where, ".", name)); !status.ok()) return status;
    }
  } else if (expected.is_array()) {
    for (const json& element : expected) {
      if (absl::Status status = ValidateExpectation(element, absl::StrCat(where, "[]")); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status Match(const json& expected, const json& actual, const std::string& where) {
  if (IsOperator(expected)) return MatchOperator(expected, actual, where);
  if (expected.is_object()) {
    if (!actual.is_object()) return Differs(where, "an object", actual);
    for (const auto& [name, value] : expected.items()) {
      const std::string field = absl::StrCat(where, ".", name);
      const auto found = actual.find(name);
      if (found == actual.end()) return absl::FailedPreconditionError(absl::StrCat(field, ": absent"));
      if (absl::Status status = Match(value, *found, field); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  if (expected.is_array()) {
    if (!actual.is_array() || actual.size() != expected.size()) return Differs(where, expected.dump(), actual);
    for (size_t i = 0; i < expected.size(); ++i) {
      if (absl::Status status = Match(expected[i], actual[i], absl::StrCat(where, "[", i, "]")); !status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  }
  if (expected.is_number() && AsNumber(actual) == expected.get<double>()) return absl::OkStatus();
  return expected == actual ? absl::OkStatus() : Differs(where, expected.dump(), actual);
}

json ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  return status.ok() ? json::parse(text, nullptr, false) : json();
}

}  // namespace keyload::mock
