#include "server/device/copy_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <optional>
#include <vector>

#include "server/base/error.h"
#include "tests/support/temporary_file.h"

namespace keyload {
namespace {

TEST(CopyQueueTest, CopiesFinishInTheOrderTheyWereAskedFor) {
  const std::vector<std::byte> source = PatternBytes(10);
  std::vector<std::byte> destination(10);
  std::vector<int> order;
  std::promise<void> last;
  CopyQueue queue("copy-test", 0);
  for (int i = 0; i < 10; ++i) {
    queue.Submit({.refused = absl::OkStatus(),
                  .destination = destination.data() + i,
                  .source = std::span(source).subspan(i, 1),
                  .done = [&, i](absl::Status) {
                    order.push_back(i);
                    if (i == 9) last.set_value();
                  }});
  }
  last.get_future().wait();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(destination, source);
}

TEST(CopyQueueTest, ACopyTakesAsLongAsTheLinkNeeds) {
  const std::vector<std::byte> source = PatternBytes(10'000);
  std::vector<std::byte> destination(10'000);
  CopyQueue queue("copy-test", 1'000'000);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 2; ++i) {
    std::promise<absl::Status> done;
    queue.Submit({.refused = absl::OkStatus(),
                  .destination = destination.data(),
                  .source = source,
                  .done = [&](absl::Status status) { done.set_value(std::move(status)); }});
    EXPECT_TRUE(done.get_future().get().ok());
  }
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(20));
}

TEST(CopyQueueTest, DestructionCancelsWhatIsQueuedAndUnderWay) {
  const std::vector<std::byte> source = PatternBytes(1'000);
  std::vector<std::byte> destination(1'000);
  std::vector<absl::Status> results;  // only the queue's thread writes it, and it is joined before it is read
  std::optional<CopyQueue> queue(std::in_place, "copy-test", 1);  // 1,000 seconds a copy
  for (int i = 0; i < 3; ++i) {
    queue->Submit({.refused = absl::OkStatus(),
                   .destination = destination.data(),
                   .source = source,
                   .done = [&](absl::Status status) { results.push_back(std::move(status)); }});
  }
  queue.reset();
  ASSERT_EQ(results.size(), 3u);
  for (const absl::Status& result : results) EXPECT_EQ(ErrorReason(result), Reason::kLoadCancelled);
}

}  // namespace
}  // namespace keyload
