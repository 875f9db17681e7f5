#include "tests/mock_client/json_fields.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace keyload::mock {

Fields::Fields(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object_.is_object()) Fail("is not an object");
}

const nlohmann::json* Fields::Take(const std::string& name) {
  if (!object_.is_object()) return nullptr;
  taken_.insert(std::string(name));
  const auto found = object_.find(name);
  return found == object_.end() ? nullptr : &*found;
}

std::string Fields::RequiredText(const std::string& name) {
  const nlohmann::json* value = Take(name);
  if (value == nullptr || !value->is_string()) {
    Fail(absl::StrCat("needs the string \"", name, "\""));
    return "";
  }
  return value->get<std::string>();
}

std::string Fields::Text(const std::string& name, const std::string& fallback) {
  return Take(name) == nullptr ? fallback : RequiredText(name);
}

uint64_t Fields::RequiredCount(const std::string& name) {
  const nlohmann::json* value = Take(name);
  if (value == nullptr || !value->is_number_unsigned()) {
    Fail(absl::StrCat("needs the number \"", name, "\""));
    return 0;
  }
  return value->get<uint64_t>();
}

uint64_t Fields::Count(const std::string& name, uint64_t fallback) {
  return Take(name) == nullptr ? fallback : RequiredCount(name);
}

std::vector<uint64_t> Fields::RequiredCounts(const std::string& name) {
  const nlohmann::json* value = Take(name);
  std::vector<uint64_t> counts;
  bool well_formed = value != nullptr && value->is_array();
  if (well_formed) {
    for (const nlohmann::json& element : *value) {
      well_formed = well_formed && element.is_number_unsigned();
      if (well_formed) counts.push_back(element.get<uint64_t>());
    }
  }
  if (!well_formed) Fail(absl::StrCat("needs \"", name, "\", a list of numbers"));
  return counts;
}

const nlohmann::json* Fields::Objects(const std::string& name) {
  const nlohmann::json* value = Take(name);
  if (value == nullptr) return nullptr;
  bool well_formed = value->is_array();
  if (well_formed) {
    for (const nlohmann::json& element : *value) well_formed = well_formed && element.is_object();
  }
  if (!well_formed) Fail(absl::StrCat("\"", name, "\" is not a list of objects"));
  return well_formed ? value : nullptr;
}

const nlohmann::json* Fields::Object(const std::string& name) {
  const nlohmann::json* value = Take(name);
  if (value != nullptr && !value->is_object()) {
    Fail(absl::StrCat("\"", name, "\" is not an object"));
    return nullptr;
  }
  return value;
}

void Fields::Fail(const std::string& message) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": ", message));
}

absl::Status Fields::Finish() {
  if (object_.is_object()) {
    for (const auto& [name, value] : object_.items()) {
      if (!taken_.contains(name)) Fail(absl::StrCat("unknown field \"", name, "\""));
    }
  }
  return status_;
}

}  // namespace keyload::mock
