#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/connection_options.h"
#include "client/cli/exit_code.h"
#include "client/cli/json_output.h"
#include "client/cli/report_text.h"
#include "keyload/client.h"

namespace keyload::cli {

// What every command gets: the global flags, when to stop, and how to print.
struct CommandContext {
  ConnectionFlags connection;
  bool json = false;
  absl::Time deadline = absl::InfiniteFuture();
  std::stop_token stop;
  TextStyle style;
  std::FILE* progress = nullptr;  // terminal for the progress bar, if there is one
  std::string search_path;        // PATH
  std::string traceparent;        // TRACEPARENT

  // The time that is left for the whole command.
  CallOptions Options() const;
  absl::StatusOr<std::unique_ptr<Client>> Connect() const;
};

// A command that the flags chose; returns the exit code.
using Action = std::function<int(const CommandContext&)>;

// Prints the error, as JSON on standard output or as text on standard error, and returns its exit code.
int Fail(const CommandContext& context, const absl::Status& status);

// Prints one document or one text on standard output; control characters of a text, but for colours, as "\x1b".
void PrintJson(const Json& document);
void PrintText(const std::string& text);

// The report and its exit code; the report as a trace too, if `trace` names a file. One that cannot be written is said
// on standard error, and is the exit code where there would be none. Without a report, Fail; that there is no trace is
// said too. `code`: what a report ends with, else ExitCodeFor.
int FinishWithReport(const CommandContext& context, const absl::StatusOr<v1::LoadReport>& report,
                     const std::string& trace = "", std::optional<ExitCode> code = std::nullopt);

// "5m", "1.5s", or a bare number of seconds; UsageError on anything else and on what is not above 0.
absl::StatusOr<absl::Duration> ParseTimeout(const std::string& text, std::string_view flag = "--timeout");

}  // namespace keyload::cli
