#include "client/cli/command_context.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/exit_code.h"

namespace keyload::cli {

CallOptions CommandContext::Options() const {
  return {.timeout = std::max(deadline - absl::Now(), absl::ZeroDuration()), .stop = stop};
}

absl::StatusOr<std::unique_ptr<Client>> CommandContext::Connect() const {
  auto options = ReadConnection(connection);
  if (!options.ok()) return options.status();
  auto client = Client::Connect(*options);
  if (!client.ok()) return UsageError(std::string(client.status().message()));
  return client;
}

int Fail(const CommandContext& context, const absl::Status& status) {
  const ExitCode code = ExitCodeFor(status);
  if (context.json) {
    PrintJson(ErrorToJson(status));
    return code;
  }
  std::string message(status.message());
  if (code == kExitUnreachable)
    message = absl::StrFormat("no server answers at %s: %s", context.connection.server, message);
  std::string reason = GetErrorInfo(status).reason;
  if (reason.empty()) reason = absl::StatusCodeToString(status.code());
  std::fprintf(stderr, "keyload: %s: %s\n", reason.c_str(), message.c_str());
  return code;
}

void PrintJson(const Json& document) { PrintText(Dump(document)); }

void PrintText(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

int FinishWithReport(const CommandContext& context, const v1::LoadReport& report) {
  if (context.json) {
    PrintJson(ToJson(report));
  } else {
    PrintText(ReportText(report, context.style));
  }
  return ExitCodeFor(report);
}

absl::StatusOr<absl::Duration> ParseTimeout(const std::string& text, std::string_view flag) {
  absl::Duration timeout;
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds) && !std::isnan(seconds)) {
    timeout = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &timeout)) {
    return UsageError(absl::StrFormat("%s: \"%s\" is no duration; 90, 90s and 1m30s are", flag, text));
  }
  if (!(timeout > absl::ZeroDuration())) return UsageError(absl::StrFormat("%s: %s is not above 0", flag, text));
  return timeout;
}

}  // namespace keyload::cli
