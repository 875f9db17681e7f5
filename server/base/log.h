#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/base/request_context.h"

namespace keyload {

// Log lines on standard error through spdlog. A line is an event name and named fields, written either as
// `2026-01-02T03:04:05.678Z info load outcome=COMPLETE bytes=12` or as one JSON object per line with the same names.
// Thread-safe; so is ConfigureLog, which may be called again.
//
// Until StartLogThread each line is on standard error when its call returns. From then on that is so while standard
// error takes lines at once. Where it does not, a call puts its line into a queue, which a thread writes, and never
// waits: a reader of the log that stops cannot stop the daemon. A queue that is full loses its oldest lines; they are
// counted, and a line `log lines lost` stands in their place. The lines of audits have a larger queue of their own, so
// that no flood of other lines pushes them out.

using LogValue = std::variant<std::string, uint64_t, int64_t, double, bool>;
struct LogField {
  std::string_view name;  // units are part of the name: "total_seconds", "read_bytes"
  LogValue value;
};

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

void ConfigureLog(LogFormat format, LogLevel level);

// Once, before other threads log.
void StartLogThread();
// Waits until the lines so far are written, or lost; at most `timeout`. False: some are still in the queue.
bool FlushLog(absl::Duration timeout);

// Lines that nobody can read any more, since the start.
struct LostLogLines {
  uint64_t log = 0;
  uint64_t audit = 0;
};
LostLogLines CountLostLogLines();

void Log(LogLevel level, std::string_view event, const std::vector<LogField>& fields);
// The same for what `caller` has asked for: `traceparent` follows the fields, if it has one. Null: nobody asked.
void Log(LogLevel level, std::string_view event, std::vector<LogField> fields, const Caller* caller);

// What was asked and what came of it. Empty fields are left out of the line.
struct AuditEntry {
  std::string_view action;  // "load", "unload", "materialize", "evict", "cancel", "set_device_map", "delete_device_map"
  std::string model;
  std::string map;      // the name of a device map
  std::string load;     // as the server calls it
  std::string outcome;  // empty: "OK", or nothing with an error
  absl::Status status;  // an error adds `code` and `reason`
};
// The line `audit` of one request, at level info and whatever level the log has. Every text in it is cut at 256 bytes.
void Audit(const AuditEntry& entry, const Caller& caller);

// `text` as a JSON string with its quotes, in printable ASCII: all else is escaped, as a terminal obeys more than the
// control characters below a blank. What is not UTF-8 becomes U+FFFD.
std::string JsonString(std::string_view text);

}  // namespace keyload
