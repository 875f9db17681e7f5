#include "server/rpc/load_audit.h"

#include "server/service/shared_load.h"

namespace keyload {

void LoadAudit::End(const absl::StatusOr<LoadReport>& result) {
  if (result.ok()) {
    entry_.load = result->load;
    entry_.outcome = OutcomeName(result->outcome);
    entry_.status = result->error;
  } else if (GoesOn(result.status())) {
    entry_.outcome = "LEFT";  // what becomes of the load says its own line
  } else {
    entry_.status = result.status();
  }
  if (!suppressed_) Audit(entry_, *caller_);
}

}  // namespace keyload
