#include "server/base/log_streams.h"

#include <poll.h>
#include <spdlog/async.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

#include "absl/cleanup/cleanup.h"
#include "absl/time/clock.h"
#include "server/base/deadline.h"
#include "server/base/no_throw.h"

namespace keyload {
namespace {

constexpr size_t kQueueLines = 4096;
constexpr size_t kAuditLines = 8192;
constexpr absl::Duration kFlushStep = absl::Milliseconds(5);

// How many of `bytes` standard error took: fewer than there are when it takes nothing any more.
size_t WriteToStandardError(std::string_view bytes) {
  size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t put = ::write(STDERR_FILENO, bytes.data() + written, bytes.size() - written);
    if (put >= 0) {
      written += static_cast<size_t>(put);
    } else if (errno == EAGAIN) {
      pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
      ::poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      break;
    }
  }
  return written;
}

// Whether standard error takes `bytes` now, from its only writer, without waiting: a pipe that may be written has room
// for a page.
bool TakesNow(size_t bytes) {
  constexpr size_t kPage = 4096;
  pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  return bytes < kPage && ::poll(&ready, 1, 0) == 1 && ready.revents == POLLOUT;
}

}  // namespace

bool LogStreams::StandardError::WriteLine(std::string_view line) {
  std::string bytes;
  bytes.reserve(line.size() + 2);
  if (is_cut_) bytes += '\n';  // what stands there is no whole line
  bytes += line;
  bytes += '\n';
  const size_t written = WriteToStandardError(bytes);
  if (written > 0) is_cut_ = written < bytes.size();
  return written == bytes.size();
}

// Writes the lines of one stream to standard error.
class LogStreams::Sink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  Sink(StandardError& output, std::string_view kind, spdlog::details::thread_pool* pool, LostLine lost_line)
      : output_(output), kind_(kind), pool_(pool), lost_line_(lost_line) {}

  // False when that would mean to wait.
  bool TryWriteNow(const std::string& line) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (!output_.mutex.TryLock()) return false;
    const absl::Cleanup unlock = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { output_.mutex.Unlock(); };
    const std::string notice = Notice();
    if (!TakesNow(line.size() + notice.size())) return false;
    Write(notice, line);
    return true;
  }
  // To be called for a line that there was no memory for.
  void CountFailed() { ++failed_; }

  uint64_t lost() const { return refused_ + failed_ + (pool_ == nullptr ? 0 : pool_->overrun_counter()); }
  // Lines that were queued and are so no more.
  uint64_t done() const { return written_ + failed_ + (pool_ == nullptr ? 0 : pool_->overrun_counter()); }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    {
      MutexLock lock(output_.mutex);
      Write(Notice(), std::string_view(message.payload.data(), message.payload.size()));
    }
    ++written_;
  }
  void flush_() override {}

 private:
  // What is to be told of lost lines; empty: nothing. The queue loses its oldest lines, so it belongs before the line
  // in hand.
  std::string Notice() ABSL_EXCLUSIVE_LOCKS_REQUIRED(output_.mutex) {
    untold_ = lost() - told_;
    return untold_ == 0 || lost_line_ == nullptr ? "" : lost_line_(kind_, untold_);
  }
  void Write(const std::string& notice, std::string_view line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(output_.mutex) {
    if (!notice.empty() && output_.WriteLine(notice)) told_ += untold_;
    if (!output_.WriteLine(line)) ++refused_;
  }

  StandardError& output_;
  const std::string_view kind_;
  spdlog::details::thread_pool* const pool_;
  const LostLine lost_line_;
  uint64_t told_ ABSL_GUARDED_BY(output_.mutex) = 0;    // lost lines
  uint64_t untold_ ABSL_GUARDED_BY(output_.mutex) = 0;  // those of the last Notice
  std::atomic<uint64_t> written_ = 0;                   // or refused; of the queue
  std::atomic<uint64_t> refused_ = 0;                   // by standard error
  std::atomic<uint64_t> failed_ = 0;                    // without memory
};

LogStreams::LogStreams() {
  for (Stream* const stream : {&log_, &audit_}) {
    stream->sink = std::make_shared<Sink>(output_, stream->kind, nullptr, nullptr);
    stream->logger = std::make_shared<spdlog::logger>(std::string(stream->kind), stream->sink);
    Prepare(*stream);
  }
}

void LogStreams::Prepare(Stream& stream) {
  stream.logger->set_level(spdlog::level::trace);
  // Called where a sink has no memory for a line, in whatever thread.
  stream.logger->set_error_handler([sink = stream.sink.get()](const std::string&) { sink->CountFailed(); });
  stream.queued = 0;
}

void LogStreams::StartThread(LostLine lost_line) {
  Start(log_, kQueueLines, lost_line);
  Start(audit_, kAuditLines, lost_line);
}

void LogStreams::Start(Stream& stream, size_t queue_lines, LostLine lost_line) {
  stream.pool = std::make_shared<spdlog::details::thread_pool>(queue_lines, 1);
  stream.sink = std::make_shared<Sink>(output_, stream.kind, stream.pool.get(), lost_line);
  stream.logger = std::make_shared<spdlog::async_logger>(std::string(stream.kind), stream.sink, stream.pool,
                                                         spdlog::async_overflow_policy::overrun_oldest);
  Prepare(stream);
}

void LogStreams::Put(Stream& stream, spdlog::level::level_enum level, const std::string& line) {
  bool queued = false;
  const absl::Status put = NoThrow([&] {
    // In order: what waits goes first.
    if (stream.pool != nullptr && IsEmpty(stream) && stream.sink->TryWriteNow(line)) return;
    queued = true;
    ++stream.queued;
    stream.logger->log(level, spdlog::string_view_t(line.data(), line.size()));
  });
  if (put.ok()) return;
  // There was no memory for the line.
  if (!queued) ++stream.queued;
  stream.sink->CountFailed();
}

uint64_t LogStreams::Lost(const Stream& stream) { return stream.sink->lost(); }

bool LogStreams::IsEmpty(const Stream& stream) {
  return stream.pool == nullptr || stream.sink->done() >= stream.queued;
}

bool LogStreams::Flush(absl::Duration timeout) const {
  const Deadline deadline = Deadline::After(timeout);
  while (!IsEmpty(log_) || !IsEmpty(audit_)) {
    if (deadline.passed()) return false;
    absl::SleepFor(kFlushStep);
  }
  return true;
}

}  // namespace keyload
