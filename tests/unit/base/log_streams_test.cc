#include "server/base/log_streams.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "absl/time/clock.h"
#include "server/base/fd.h"
#include "server/base/strings.h"
#include "tests/support/failing_heap.h"

namespace keyload {
namespace {

constexpr int kLines = 20'000;
constexpr int kAudits = 3'000;

std::string LostLine(std::string_view kind, uint64_t lines) { return StrCat("lost ", kind, " ", lines); }

// Standard error, which is a pipe that nobody reads.
class LogStreamsTest : public testing::Test {
 protected:
  LogStreamsTest() : before_(dup(STDERR_FILENO)) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    reader_ = UniqueFd(ends[0]);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
  }
  ~LogStreamsTest() override { dup2(before_.get(), STDERR_FILENO); }

  // Reads until a line is `last`.
  std::string ReadTo(const std::string& last) {
    std::string text;
    char buffer[4096];
    while (!text.ends_with(last)) {
      const ssize_t got = read(reader_.get(), buffer, sizeof(buffer));
      if (got <= 0) break;
      text.append(buffer, static_cast<size_t>(got));
    }
    return text;
  }

  const UniqueFd before_;
  UniqueFd reader_;
};

uint64_t CountLines(const std::string& text, const std::string& begin) {
  uint64_t count = 0;
  for (size_t at = 0; at < text.size(); at = text.find('\n', at) + 1)
    count += text.compare(at, begin.size(), begin) == 0;
  return count;
}

uint64_t SumOfLost(const std::string& text, const std::string& begin) {
  uint64_t sum = 0;
  for (size_t at = text.find(begin); at != std::string::npos; at = text.find(begin, at + 1)) {
    sum += std::stoull(text.substr(at + begin.size()));
  }
  return sum;
}

TEST_F(LogStreamsTest, ReaderThatStopsHoldsUpNobodyAndIsToldWhatItMissed) {
  LogStreams streams;
  streams.StartThread(LostLine);
  for (int i = 0; i < kLines; ++i) streams.Log(spdlog::level::info, StrCat("line ", i, std::string(100, 'x')));
  for (int i = 0; i < kAudits; ++i) streams.Audit(StrCat("audit ", i));
  EXPECT_FALSE(streams.Flush(absl::Milliseconds(20))) << "nobody reads";
  EXPECT_GT(streams.lost_lines(), 0u);
  EXPECT_EQ(streams.lost_audits(), 0u) << "other lines push out no audit";

  std::string text;
  std::thread reader([&] { text = ReadTo("the end\n"); });
  EXPECT_TRUE(streams.Flush(absl::Seconds(30)));
  const uint64_t lost = streams.lost_lines();
  streams.Log(spdlog::level::info, "the end");
  reader.join();
  EXPECT_EQ(CountLines(text, "line ") + lost, uint64_t{kLines});
  EXPECT_EQ(SumOfLost(text, "lost log "), lost);
  EXPECT_EQ(CountLines(text, "audit "), uint64_t{kAudits});
  EXPECT_NE(text.find(StrCat("line ", kLines - 1, "x")), std::string::npos) << "the latest are kept";
}

TEST_F(LogStreamsTest, WithoutItsThreadALineIsWrittenWhenTheCallReturns) {
  LogStreams streams;
  streams.Log(spdlog::level::info, "the line");
  EXPECT_TRUE(streams.Flush(absl::ZeroDuration()));
  EXPECT_EQ(ReadTo("\n"), "the line\n");
}

TEST_F(LogStreamsTest, LineIsWrittenWhenTheCallReturnsWhileTheReaderKeepsUp) {
  LogStreams streams;
  streams.StartThread(LostLine);
  for (int i = 0; i < 100; ++i) {
    streams.Audit("the line");
    int bytes = 0;
    ASSERT_EQ(ioctl(reader_.get(), FIONREAD, &bytes), 0);
    ASSERT_EQ(bytes, 9);
    EXPECT_EQ(ReadTo("\n"), "the line\n");
  }
}

TEST_F(LogStreamsTest, LinesForNobodyAreCountedAndTold) {
  const auto ignored = signal(SIGPIPE, SIG_IGN);
  const UniqueFd pipe(dup(STDERR_FILENO));
  LogStreams streams;
  streams.StartThread(LostLine);
  const UniqueFd full(open("/dev/full", O_WRONLY | O_CLOEXEC));
  dup2(full.get(), STDERR_FILENO);
  streams.Log(spdlog::level::info, "to nobody");
  EXPECT_TRUE(streams.Flush(absl::Seconds(30)));
  EXPECT_EQ(streams.lost_lines(), 1u);
  dup2(pipe.get(), STDERR_FILENO);
  for (int i = 0; i < 2; ++i) streams.Log(spdlog::level::info, "a line");
  EXPECT_TRUE(streams.Flush(absl::Seconds(30)));
  EXPECT_EQ(ReadTo("a line\na line\n"), "lost log 1\na line\na line\n");
  signal(SIGPIPE, ignored);
}

TEST_F(LogStreamsTest, LineThatWasCutDoesNotRunIntoTheNext) {
  const auto ignored = signal(SIGXFSZ, SIG_IGN);
  char path[] = "/tmp/log_streams_test.XXXXXX";
  const UniqueFd file(mkostemp(path, O_CLOEXEC | O_APPEND));
  unlink(path);
  dup2(file.get(), STDERR_FILENO);
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  LogStreams streams;
  {
    const rlimit little = {.rlim_cur = 5, .rlim_max = before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &little), 0);
    const absl::Cleanup restore = [&] { setrlimit(RLIMIT_FSIZE, &before); };
    streams.Log(spdlog::level::info, "long line");
  }
  streams.Log(spdlog::level::info, "next line");
  signal(SIGXFSZ, ignored);
  EXPECT_EQ(streams.lost_lines(), 1u);
  char text[64] = {};
  EXPECT_GT(pread(file.get(), text, sizeof(text) - 1, 0), 0);
  EXPECT_STREQ(text, "long \nnext line\n");
}

TEST_F(LogStreamsTest, LineThatThereIsNoMemoryForIsLostAndNotWaitedFor) {
  LogStreams streams;
  streams.StartThread(LostLine);
  const std::string line(1000, 'x');
  while (streams.lost_lines() == 0) streams.Log(spdlog::level::info, line);  // until the pipe and the queue are full
  const uint64_t lost = streams.lost_lines();
  {
    const FailingHeap heap(1);
    streams.Log(spdlog::level::info, line);
    EXPECT_GT(heap.refused(), 0u);
  }
  EXPECT_GT(streams.lost_lines(), lost);
  std::thread reader([&] { ReadTo("the end\n"); });
  EXPECT_TRUE(streams.Flush(absl::Seconds(30)));
  streams.Log(spdlog::level::info, "the end");
  reader.join();
}

}  // namespace
}  // namespace keyload
