#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace keyload::mock {

// Reads one JSON object strictly: a field of the wrong type and a field that nobody asked for are errors. Getters
// return an empty value once something was wrong; Finish() tells what. Not thread-safe; borrows `object`.
class Fields {
 public:
  // `where` names the object in messages.
  Fields(const nlohmann::json& object, std::string where);

  std::string RequiredText(const std::string& name);
  std::string Text(const std::string& name, const std::string& fallback);
  uint64_t RequiredCount(const std::string& name);
  uint64_t Count(const std::string& name, uint64_t fallback);
  std::vector<uint64_t> RequiredCounts(const std::string& name);
  // An array of objects, or null.
  const nlohmann::json* Objects(const std::string& name);
  // An object, or null where the field is absent.
  const nlohmann::json* Object(const std::string& name);

  void Fail(const std::string& message);
  // INVALID_ARGUMENT for the first problem, unknown fields included.
  absl::Status Finish();

 private:
  const nlohmann::json* Take(const std::string& name);

  const nlohmann::json& object_;
  const std::string where_;
  absl::flat_hash_set<std::string> taken_;
  absl::Status status_;
};

}  // namespace keyload::mock
