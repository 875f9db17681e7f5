#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "server/base/log.h"
#include "server/base/mutex.h"

namespace keyload {

// Bounds the lines that one place of the program writes, where others decide how often it does: 20 in a second, of each
// second that begins with a line. Those above are counted and not written. Thread-safe; does not block.
class LogLimiter {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // The number of lines that were kept back since the last one; nothing if this one is to be kept back too.
  std::optional<uint64_t> Admit(Time now = std::chrono::steady_clock::now());

  // As the function Log, if the line is admitted: `suppressed` follows the fields if lines were kept back before it.
  // False: this one is.
  bool Log(LogLevel level, std::string_view event, std::vector<LogField> fields, const Caller* caller = nullptr);

 private:
  Mutex mutex_;
  Time begin_ ABSL_GUARDED_BY(mutex_);
  int written_ ABSL_GUARDED_BY(mutex_) = 0;  // since begin_
  uint64_t suppressed_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace keyload
