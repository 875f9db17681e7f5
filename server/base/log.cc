#include "server/base/log.h"

#include <atomic>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

#include "server/base/error.h"
#include "server/base/log_streams.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

std::atomic<LogFormat> log_format = LogFormat::kText;

// The two streams of lines, which never go: a thread may log as long as there is one.
LogStreams& Streams() {
  static auto* const streams = new LogStreams();
  return *streams;
}

constexpr std::string_view LevelName(LogLevel level) {
  constexpr std::string_view kNames[] = {"debug", "info", "warning", "error"};
  return kNames[static_cast<int>(level)];
}

spdlog::level::level_enum SpdlogLevel(LogLevel level) {
  constexpr spdlog::level::level_enum kLevels[] = {spdlog::level::debug, spdlog::level::info, spdlog::level::warn,
                                                   spdlog::level::err};
  return kLevels[static_cast<int>(level)];
}

bool IsPlain(std::string_view text) {
  if (text.empty()) return false;
  for (const unsigned char c : text) {
    if (c <= ' ' || c == '"' || c == '=' || c >= 0x7f) return false;
  }
  return true;
}

struct Render {
  bool json;
  std::string operator()(const std::string& text) const { return json || !IsPlain(text) ? JsonString(text) : text; }
  std::string operator()(double value) const { return absl::StrFormat("%.6f", value); }
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  template <typename T>
  std::string operator()(T value) const {
    return StrCat(value);
  }
};

std::string Line(LogLevel level, std::string_view event, const std::vector<LogField>& fields) {
  const bool json = log_format == LogFormat::kJson;
  const std::string now = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  std::string line =
      json ? StrCat("{\"ts\":\"", now, "\",\"level\":\"", LevelName(level), "\",\"event\":", JsonString(event))
           : StrCat(now, " ", LevelName(level), " ", event);
  for (const LogField& field : fields) {
    const std::string value = std::visit(Render{json}, field.value);
    if (json) {
      StrAppend(&line, ",", JsonString(field.name), ":", value);
    } else {
      StrAppend(&line, " ", field.name, "=", value);
    }
  }
  if (json) line += "}";
  return line;
}

std::string LostLine(std::string_view kind, uint64_t lines) {
  return Line(LogLevel::kWarning, "log lines lost", {{"kind", std::string(kind)}, {"lines", lines}});
}

std::string Bounded(std::string_view text) {
  constexpr std::string_view kCut = "...";
  constexpr size_t kMost = 256;
  if (text.size() <= kMost) return std::string(text);
  return StrCat(text.substr(0, kMost - kCut.size()), kCut);
}

}  // namespace

std::string JsonString(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
}

void ConfigureLog(LogFormat format, LogLevel level) {
  log_format = format;
  Streams().set_level(SpdlogLevel(level));
}

void StartLogThread() { Streams().StartThread(LostLine); }

bool FlushLog(absl::Duration timeout) { return Streams().Flush(timeout); }

LostLogLines CountLostLogLines() { return {.log = Streams().lost_lines(), .audit = Streams().lost_audits()}; }

void Log(LogLevel level, std::string_view event, const std::vector<LogField>& fields) {
  const spdlog::level::level_enum severity = SpdlogLevel(level);
  if (Streams().ShouldLog(severity)) Streams().Log(severity, Line(level, event, fields));
}

void Log(LogLevel level, std::string_view event, std::vector<LogField> fields, const Caller* caller) {
  if (caller != nullptr && !caller->traceparent.empty()) fields.push_back({"traceparent", caller->traceparent});
  Log(level, event, fields);
}

void Audit(const AuditEntry& entry, const Caller& caller) {
  std::vector<LogField> fields;
  const auto add = [&fields](std::string_view name, std::string_view text) {
    if (!text.empty()) fields.push_back({name, Bounded(text)});
  };
  add("action", entry.action);
  add("model", entry.model);
  add("map", entry.map);
  add("load", entry.load);
  add("caller", caller.name);
  add("peer", caller.peer);
  add("outcome", entry.outcome.empty() && entry.status.ok() ? "OK" : entry.outcome);
  if (!entry.status.ok()) {
    add("code", absl::StatusCodeToString(entry.status.code()));
    const Reason reason = ErrorReason(entry.status);
    if (ReasonCode(reason) == entry.status.code()) add("reason", ReasonName(reason));  // else it was made elsewhere
  }
  add("traceparent", caller.traceparent);
  Streams().Audit(Line(LogLevel::kInfo, "audit", fields));
}

}  // namespace keyload
