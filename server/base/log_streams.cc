#include "server/base/log_streams.h"

#include <poll.h>
#include <spdlog/async.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>
#include <utility>

#include "absl/time/clock.h"

namespace keyload {
namespace {

constexpr size_t kQueueLines = 4096;
constexpr size_t kAuditLines = 8192;
constexpr absl::Duration kFlushStep = absl::Milliseconds(5);

// False when standard error takes nothing any more.
bool WriteToStandardError(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(STDERR_FILENO, bytes.data(), bytes.size());
    if (put >= 0) {
      bytes.remove_prefix(static_cast<size_t>(put));
    } else if (errno == EAGAIN) {
      pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
      ::poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace

// Whether standard error takes a line of `bytes` now, from its only writer, without waiting: a pipe that may be written
// has room for a page.
bool TakesNow(size_t bytes) {
  constexpr size_t kPage = 4096;
  pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  return bytes < kPage && ::poll(&ready, 1, 0) == 1 && ready.revents == POLLOUT;
}

// Writes the lines of one stream to standard error.
class LogStreams::Sink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  Sink(Mutex& write_mutex, std::string_view kind, spdlog::details::thread_pool* pool, LostLine lost_line)
      : write_mutex_(write_mutex), kind_(kind), pool_(pool), lost_line_(lost_line) {}

  // False when that would mean to wait.
  bool TryWriteNow(const std::string& line) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (!write_mutex_.TryLock()) return false;
    const bool takes = TakesNow(line.size());
    if (takes && !WriteToStandardError(line + '\n')) ++refused_;
    write_mutex_.Unlock();
    return takes;
  }

  uint64_t written() const { return written_; }
  uint64_t refused() const { return refused_; }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    std::string line = TellLost();
    line.append(message.payload.data(), message.payload.size());
    line += '\n';
    {
      MutexLock lock(write_mutex_);
      if (!WriteToStandardError(line)) ++refused_;
    }
    ++written_;
  }
  void flush_() override {}

 private:
  // The queue loses its oldest lines, so those that are lost belong before the line in hand.
  std::string TellLost() {
    const uint64_t lost = pool_ == nullptr ? 0 : pool_->overrun_counter();
    const uint64_t untold = lost - std::exchange(told_, lost);
    return untold == 0 ? "" : lost_line_(kind_, untold) + '\n';
  }

  Mutex& write_mutex_;
  const std::string_view kind_;
  spdlog::details::thread_pool* const pool_;
  const LostLine lost_line_;
  uint64_t told_ = 0;
  std::atomic<uint64_t> written_ = 0;  // or refused
  std::atomic<uint64_t> refused_ = 0;
};

LogStreams::LogStreams() {
  for (Stream* const stream : {&log_, &audit_}) {
    stream->sink = std::make_shared<Sink>(write_mutex_, stream->kind, nullptr, nullptr);
    stream->logger = std::make_shared<spdlog::logger>(std::string(stream->kind), stream->sink);
    stream->logger->set_level(spdlog::level::trace);
  }
}

void LogStreams::StartThread(LostLine lost_line) {
  Start(log_, kQueueLines, lost_line);
  Start(audit_, kAuditLines, lost_line);
}

void LogStreams::Start(Stream& stream, size_t queue_lines, LostLine lost_line) {
  stream.pool = std::make_shared<spdlog::details::thread_pool>(queue_lines, 1);
  stream.sink = std::make_shared<Sink>(write_mutex_, stream.kind, stream.pool.get(), lost_line);
  stream.logger = std::make_shared<spdlog::async_logger>(std::string(stream.kind), stream.sink, stream.pool,
                                                         spdlog::async_overflow_policy::overrun_oldest);
  stream.logger->set_level(spdlog::level::trace);
  stream.queued = 0;
}

void LogStreams::Put(Stream& stream, spdlog::level::level_enum level, const std::string& line) {
  // In order: what waits goes first.
  if (stream.pool != nullptr && IsEmpty(stream) && stream.sink->TryWriteNow(line)) return;
  ++stream.queued;
  stream.logger->log(level, spdlog::string_view_t(line.data(), line.size()));
}

uint64_t LogStreams::Lost(const Stream& stream) {
  return stream.sink->refused() + (stream.pool == nullptr ? 0 : stream.pool->overrun_counter());
}

bool LogStreams::IsEmpty(const Stream& stream) {
  return stream.pool == nullptr || stream.sink->written() + stream.pool->overrun_counter() >= stream.queued;
}

bool LogStreams::Flush(absl::Duration timeout) const {
  const absl::Time deadline = absl::Now() + timeout;
  while (!IsEmpty(log_) || !IsEmpty(audit_)) {
    if (absl::Now() >= deadline) return false;
    absl::SleepFor(kFlushStep);
  }
  return true;
}

}  // namespace keyload
