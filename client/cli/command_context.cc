#include "client/cli/command_context.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/exit_code.h"
#include "client/cli/trace_file.h"

namespace keyload::cli {
namespace {

void WriteToOutput(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// The length of the control character that `text` begins with, 0 if it begins with none. Colours and line ends are
// ours.
size_t ControlLength(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  if (byte(0) == 0xC2 && byte(1) >= 0x80 && byte(1) < 0xA0) return 2;  // U+0080 to U+009F
  if (text[0] == '\n' || text[0] == '\t') return 0;
  for (const std::string_view own : {"\x1b[0m", "\x1b[1;31m", "\x1b[1;32m", "\x1b[1;33m"}) {
    if (text.starts_with(own)) return 0;
  }
  return byte(0) < 0x20 || byte(0) == 0x7F ? 1 : 0;
}

// Names of keys and files come from checkpoints that nobody has to trust, and terminals obey control characters.
std::string WithoutControls(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t controls = ControlLength(text);
    if (controls == 0) out += text[0];
    for (size_t i = 0; i < controls; ++i) absl::StrAppendFormat(&out, "\\x%02x", static_cast<unsigned char>(text[i]));
    text.remove_prefix(std::max<size_t>(controls, 1));
  }
  return out;
}

void WarnOfTrace(std::string_view why) {
  std::fprintf(stderr, "keyload: --trace: %s\n", WithoutControls(std::string(why)).c_str());
}

}  // namespace

CallOptions CommandContext::Options() const {
  return {.timeout = std::max(deadline - absl::Now(), absl::ZeroDuration()), .stop = stop, .traceparent = traceparent};
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
  std::fprintf(stderr, "keyload: %s: %s\n", reason.c_str(), WithoutControls(message).c_str());
  return code;
}

void PrintJson(const Json& document) { WriteToOutput(Dump(document)); }

void PrintText(const std::string& text) { WriteToOutput(WithoutControls(text)); }

int FinishWithReport(const CommandContext& context, const absl::StatusOr<v1::LoadReport>& report,
                     const std::string& trace, std::optional<ExitCode> given) {
  if (!report.ok()) {
    if (!trace.empty()) WarnOfTrace(absl::StrFormat("there is no report, %s was not written", trace));
    return Fail(context, report.status());
  }
  if (context.json) {
    PrintJson(ToJson(*report));
  } else {
    PrintText(ReportText(*report, context.style));
  }
  const ExitCode code = given.value_or(ExitCodeFor(*report));
  if (trace.empty()) return code;
  const absl::Status written = WriteTraceFile(trace, *report);
  if (written.ok()) return code;
  WarnOfTrace(std::string(written.message()));
  return code == kExitDone ? kExitFailed : code;
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
