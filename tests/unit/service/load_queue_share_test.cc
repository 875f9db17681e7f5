#include <gtest/gtest.h>

#include <latch>
#include <new>
#include <string>
#include <vector>

#include "server/base/error.h"
#include "server/service/load_queue.h"

namespace keyload {
namespace {

RequestContext Of(const std::string& name) {
  return {.caller = std::make_shared<const Caller>(Caller{.name = name, .peer = "ipv4:10.0.0.1:1", .traceparent = ""})};
}

// Two threads, which are held until Release, and the names of the tasks in the order in which they ran.
class LoadQueueShareTest : public testing::Test {
 protected:
  ~LoadQueueShareTest() override { Release(2); }

  // A task of `caller` that occupies a thread.
  void Hold(const std::string& caller) {
    std::latch held(1);
    ASSERT_TRUE(queue_
                    .Submit({.context = Of(caller),
                             .load = nullptr,
                             .run =
                                 [&](auto) {
                                   held.count_down();
                                   AwaitRelease();
                                 }})
                    .ok());
    held.wait();
  }
  absl::Status Submit(const std::string& caller, const std::string& task) {
    return queue_.Submit({.context = Of(caller), .load = nullptr, .run = [this, task](auto) {
                            MutexLock lock(mutex_);
                            ran_.push_back(task);
                            changed_.NotifyAll();
                          }});
  }
  void Release(size_t threads = 1) {
    MutexLock lock(mutex_);
    released_ += threads;
    changed_.NotifyAll();
  }
  std::vector<std::string> WaitFor(size_t tasks) {
    MutexLock lock(mutex_);
    while (ran_.size() < tasks) changed_.Wait(mutex_);
    return ran_;
  }

  Mutex& mutex() ABSL_LOCK_RETURNED(mutex_) { return mutex_; }

 private:
  void AwaitRelease() {
    MutexLock lock(mutex_);
    while (released_ == 0) changed_.Wait(mutex_);
    --released_;
  }

  Mutex mutex_;
  CondVar changed_;
  size_t released_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::string> ran_ ABSL_GUARDED_BY(mutex_);

 protected:
  LoadQueue queue_{{.threads = 2, .limit = 8}};
};

TEST_F(LoadQueueShareTest, OneCallerAloneUsesAllThreads) {
  Hold("a");
  Hold("a");
  EXPECT_EQ(queue_.queued(), 0u);
}

TEST_F(LoadQueueShareTest, ACallerWithNothingRunningGoesBeforeOneThatHas) {
  Hold("a");
  Hold("c");
  for (const char* task : {"a1", "a2"}) ASSERT_TRUE(Submit("a", task).ok());
  ASSERT_TRUE(Submit("b", "b1").ok());
  Release();
  EXPECT_EQ(WaitFor(3).front(), "b1");
}

TEST_F(LoadQueueShareTest, ACallerThatHasAllThreadsHoldsUpNoOther) {
  Hold("a");
  Hold("a");
  for (const char* task : {"a1", "a2"}) ASSERT_TRUE(Submit("a", task).ok());
  for (const char* task : {"b1", "b2"}) ASSERT_TRUE(Submit("b", task).ok());
  EXPECT_EQ(WaitFor(2), (std::vector<std::string>{"b1", "b2"}));
  EXPECT_EQ(queue_.queued(), 2u) << "the thread to spare is for others than a";
}

TEST_F(LoadQueueShareTest, CallersThatWaitTakeTurns) {
  Hold("x");
  Hold("y");
  for (const char* task : {"a1", "a2", "a3"}) ASSERT_TRUE(Submit("a", task).ok());
  for (const char* task : {"b1", "b2"}) ASSERT_TRUE(Submit("b", task).ok());
  Release();
  EXPECT_EQ(WaitFor(5), (std::vector<std::string>{"a1", "b1", "a2", "b2", "a3"}));
}

TEST_F(LoadQueueShareTest, ACallerThatFilledTheQueueLeavesRoomForOthers) {
  Hold("a");
  Hold("d");
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(Submit("a", "a").ok());
  EXPECT_EQ(ErrorReason(Submit("a", "a")), Reason::kLoadQueueFull);
  EXPECT_EQ(ErrorReason(queue_.CheckRoom(Of("a").share())), Reason::kLoadQueueFull);
  EXPECT_TRUE(queue_.CheckRoom(Of("b").share()).ok());
  EXPECT_TRUE(Submit("b", "b1").ok());
  EXPECT_EQ(ErrorReason(Submit("b", "b2")), Reason::kLoadQueueFull) << "an eighth of the limit is one";
  EXPECT_TRUE(Submit("c", "c1").ok());
}

TEST_F(LoadQueueShareTest, TheQueueHasItsLimitWhileTheThreadToSpareIsTaken) {
  for (const char* caller : {"a", "a", "b"}) Hold(caller);
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(Submit("a", "a").ok());
  EXPECT_EQ(ErrorReason(Submit("a", "a")), Reason::kLoadQueueFull);
  Release(3);
}

TEST_F(LoadQueueShareTest, ATaskThatThrowsFailsAloneAndItsThreadGoesOn) {
  absl::Status failed;
  ASSERT_TRUE(queue_
                  .Submit({.context = Of("a"),
                           .load = nullptr,
                           .run = [](auto) { throw std::bad_alloc(); },
                           .fail =
                               [&](const absl::Status& status) {
                                 MutexLock lock(mutex());
                                 failed = status;
                               }})
                  .ok());
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Submit("a", "next").ok());
  WaitFor(4);
  for (int i = 0; i < 2; ++i) Hold("a");  // both threads are there, and the task has ended
  MutexLock lock(mutex());
  EXPECT_EQ(ErrorReason(failed), Reason::kMemoryExhausted);
}

}  // namespace
}  // namespace keyload
