#include "server/rpc/grpc_log.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <string>

#include "server/base/log_limiter.h"

namespace keyload {
namespace {

void Write(gpr_log_func_args* args) {
  // Never destroyed: gRPC may write until the process has ended. Two of them, so that no number of lines that nobody
  // wants to see keeps an error back.
  static LogLimiter* const errors = new LogLimiter;
  static LogLimiter* const details = new LogLimiter;
  const bool error = args->severity == GPR_LOG_SEVERITY_ERROR;
  (error ? errors : details)
      ->Log(error ? LogLevel::kWarning : LogLevel::kDebug, "grpc", {{"message", std::string(args->message)}});
}

// What protobuf says of a message that it cannot parse: the caller gets an error, and decides how often it happens.
void WriteOfProtobuf(google::protobuf::LogLevel /*level*/, const char* /*file*/, int /*line*/,
                     const std::string& message) {
  static LogLimiter* const lines = new LogLimiter;
  lines->Log(LogLevel::kDebug, "protobuf", {{"message", message}});
}

}  // namespace

void TakeGrpcLog() {
  gpr_set_log_function(Write);
  google::protobuf::SetLogHandler(WriteOfProtobuf);
}

}  // namespace keyload
