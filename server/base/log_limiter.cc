#include "server/base/log_limiter.h"

#include <utility>

namespace keyload {
namespace {

constexpr int kMostLines = 20;
constexpr std::chrono::seconds kPeriod(1);

}  // namespace

std::optional<uint64_t> LogLimiter::Admit(Time now) {
  MutexLock lock(mutex_);
  if (written_ == 0 || now - begin_ >= kPeriod) {
    begin_ = now;
    written_ = 0;
  }
  if (written_ == kMostLines) {
    ++suppressed_;
    return std::nullopt;
  }
  ++written_;
  return std::exchange(suppressed_, 0);
}

bool LogLimiter::Log(LogLevel level, std::string_view event, std::vector<LogField> fields, const Caller* caller) {
  const std::optional<uint64_t> suppressed = Admit();
  if (!suppressed) return false;
  if (*suppressed > 0) fields.push_back({"suppressed", *suppressed});
  keyload::Log(level, event, std::move(fields), caller);
  return true;
}

}  // namespace keyload
