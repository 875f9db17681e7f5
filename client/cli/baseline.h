#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "client/cli/json_output.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// Findings that are known and accepted: those of an earlier `keyload --json check`, whose output is the file. A gate
// with a baseline fails only for what is new. Immutable.
class Baseline {
 public:
  // UsageError: the file cannot be read, or is no output of `keyload --json check`.
  static absl::StatusOr<Baseline> Read(const std::string& path);

  bool HasMissing(const std::string& key) const { return missing_.contains(key); }
  bool HasUnexpected(const std::string& key) const { return unexpected_.contains(key); }
  bool HasMismatched(const std::string& key) const { return mismatched_.contains(key); }
  // A finding of the same rule about as many keys or more, with all of its names.
  bool Has(const v1::Finding& finding) const;

 private:
  struct KnownFinding {
    uint64_t count = 0;
    absl::flat_hash_set<std::string> names;
  };
  void Add(const Json& report);

  absl::flat_hash_set<std::string> missing_, unexpected_, mismatched_;
  std::multimap<std::string, KnownFinding> findings_;  // by rule
};

}  // namespace keyload::cli
