#pragma once

#include <string>

#include "grpcpp/support/status.h"
#include "keyload/v1/model_loader.pb.h"
#include "nlohmann/json.hpp"

namespace keyload::mock {

// An error in the form that scenarios expect: {"code": "NOT_FOUND", "reason": ..., "message": ..., "metadata": {...}}.
// Reason and metadata come from the status's ErrorInfo and are empty without one.
nlohmann::json ErrorJson(const grpc::Status& status);
nlohmann::json ErrorJson(const v1::LoadError& error);

}  // namespace keyload::mock
