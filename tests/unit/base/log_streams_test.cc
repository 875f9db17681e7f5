#include "server/base/log_streams.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "absl/time/clock.h"
#include "server/base/fd.h"
#include "server/base/strings.h"

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

TEST_F(LogStreamsTest, LinesForNobodyAreCounted) {
  const auto ignored = signal(SIGPIPE, SIG_IGN);
  reader_ = UniqueFd(open("/dev/null", O_RDONLY));
  LogStreams streams;
  streams.Log(spdlog::level::info, "to nobody");
  EXPECT_EQ(streams.lost_lines(), 1u);
  signal(SIGPIPE, ignored);
}

}  // namespace
}  // namespace keyload
