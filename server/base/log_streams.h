#pragma once

#include <spdlog/async_logger.h>
#include <spdlog/logger.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "server/base/mutex.h"

namespace keyload {

// Where the lines of the log go: to standard error, by the thread that logs while standard error takes them, else
// through a queue of spdlog's for ordinary lines and another one for audits. See log.h. Thread-safe.
class LogStreams {
 public:
  // What stands in the place of lines that were lost.
  using LostLine = std::string (*)(std::string_view kind, uint64_t lines);

  LogStreams();

  void StartThread(LostLine lost_line);
  bool Flush(absl::Duration timeout) const;

  void set_level(spdlog::level::level_enum level) { level_ = level; }
  bool ShouldLog(spdlog::level::level_enum level) const { return level >= level_; }
  void Log(spdlog::level::level_enum level, const std::string& line) { Put(log_, level, line); }
  void Audit(const std::string& line) { Put(audit_, spdlog::level::info, line); }

  uint64_t lost_lines() const { return Lost(log_); }
  uint64_t lost_audits() const { return Lost(audit_); }

 private:
  class Sink;
  class StandardError {
   public:
    Mutex mutex;  // a line may take more than one write
    // False when not all of the line, which has no line feed, was taken.
    bool WriteLine(std::string_view line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

   private:
    bool is_cut_ ABSL_GUARDED_BY(mutex) = false;  // what was taken last is the beginning of a line
  };
  struct Stream {
    std::string_view kind;
    std::shared_ptr<spdlog::details::thread_pool> pool;  // null: a line is written by the thread that logs it
    std::shared_ptr<Sink> sink;
    std::shared_ptr<spdlog::logger> logger;
    std::atomic<uint64_t> queued = 0;  // lines
  };

  static void Put(Stream& stream, spdlog::level::level_enum level, const std::string& line);
  static uint64_t Lost(const Stream& stream);
  static bool IsEmpty(const Stream& stream);
  static void Prepare(Stream& stream);
  void Start(Stream& stream, size_t queue_lines, LostLine lost_line);

  StandardError output_;
  std::atomic<spdlog::level::level_enum> level_ = spdlog::level::info;
  Stream log_{.kind = "log"};
  Stream audit_{.kind = "audit"};
};

}  // namespace keyload
