#pragma once

#include "absl/status/statusor.h"
#include "keyload/v1/model_loader.pb.h"
#include "server/report/load_report.h"

namespace keyload {

// What ToProto made of a report or of an error, as it was. INTERNAL when it says what this build does not know.
absl::StatusOr<LoadReport> FromProto(const v1::LoadReport& message);
absl::Status FromProto(const v1::LoadError& message);

}  // namespace keyload
