#include "server/rpc/grpc_log.h"

#include <grpc/support/log.h>

#include <string>

#include "server/base/log.h"

namespace keyload {
namespace {

void Write(gpr_log_func_args* args) {
  const LogLevel level = args->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarning : LogLevel::kDebug;
  Log(level, "grpc", {{"message", std::string(args->message)}});
}

}  // namespace

void TakeGrpcLog() { gpr_set_log_function(Write); }

}  // namespace keyload
