#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "server/audit/finding.h"

namespace keyload {

// What rules say is lacking, once each: an expert's key lacks in the list of experts and in that of layers. What is
// below a name that was added counts with it. The first 10,000 are kept; further ones are counted as they come.
class LackingNames {
 public:
  void Add(std::string name);
  bool empty() const { return names_.empty(); }
  // A finding with the count and the first names in natural order; `message` gets both, the names joined.
  Finding Find(std::string_view rule, absl::FunctionRef<std::string(uint64_t, std::string_view)> message);

 private:
  std::vector<std::string> names_;
  uint64_t further_ = 0;
};

}  // namespace keyload
