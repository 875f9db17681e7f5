#pragma once

#include "absl/status/status.h"
#include "attach/attach_table.h"

namespace keyload {

// What of a table's columns is checked once they are found: that each row is what docs/attach.md says of it.
class AttachTableChecks {
 public:
  static absl::Status CheckSegments(const AttachTable& table);
  static absl::Status CheckDTypes(const AttachTable& table);
  // After the two above.
  static absl::Status CheckRows(const AttachTable& table);
};

}  // namespace keyload
