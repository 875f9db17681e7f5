#include "server/base/fair_queue.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace keyload {
namespace {

using Queue = FairQueue<std::string>;

bool Push(Queue& queue, const std::string& caller, std::string task) { return queue.Push(caller, std::move(task)); }

// The next task, or "" when none may run.
std::string Pop(Queue& queue) {
  std::string task;
  std::string_view caller;
  return queue.Pop(task, caller) ? task : "";
}

TEST(FairQueue, TasksOfOneCallerRunInTheirOrder) {
  Queue queue({.waiting = 8, .caller_waiting = 8, .caller_running = 8});
  for (const char* task : {"1", "2", "3"}) ASSERT_TRUE(Push(queue, "a", task));
  EXPECT_EQ(Pop(queue), "1");
  EXPECT_EQ(Pop(queue), "2");
  EXPECT_EQ(Pop(queue), "3");
  EXPECT_EQ(Pop(queue), "");
}

TEST(FairQueue, CallersTakeTurns) {
  Queue queue({.waiting = 8, .caller_waiting = 8, .caller_running = 8});
  for (const char* task : {"a1", "a2", "a3"}) ASSERT_TRUE(Push(queue, "a", task));
  ASSERT_TRUE(Push(queue, "b", "b1"));
  ASSERT_TRUE(Push(queue, "c", "c1"));
  std::vector<std::string> order;
  for (int i = 0; i < 5; ++i) order.push_back(Pop(queue));
  EXPECT_EQ(order, (std::vector<std::string>{"a1", "b1", "c1", "a2", "a3"}));
}

TEST(FairQueue, ACallerWithItsShareRunningWaitsThoughNobodyElseDoes) {
  Queue queue({.waiting = 8, .caller_waiting = 8, .caller_running = 2});
  for (const char* task : {"a1", "a2", "a3"}) ASSERT_TRUE(Push(queue, "a", task));
  EXPECT_EQ(Pop(queue), "a1");
  EXPECT_EQ(Pop(queue), "a2");
  EXPECT_EQ(Pop(queue), "");
  EXPECT_EQ(queue.size(), 1u);
  ASSERT_TRUE(Push(queue, "b", "b1"));
  EXPECT_EQ(Pop(queue), "b1") << "others pass";
  queue.Done("a");
  EXPECT_EQ(Pop(queue), "a3");
}

TEST(FairQueue, RefusesWhatIsBeyondACallersPartAndTakesOthers) {
  Queue queue({.waiting = 3, .caller_waiting = 2, .caller_running = 1});
  EXPECT_TRUE(Push(queue, "a", "a1"));
  EXPECT_TRUE(Push(queue, "a", "a2"));
  EXPECT_FALSE(Push(queue, "a", "a3"));
  EXPECT_TRUE(Push(queue, "b", "b1"));
  EXPECT_FALSE(Push(queue, "c", "c1")) << "the whole queue is full";
}

TEST(FairQueue, AParkedTaskMakesRoomForAnotherOneOfItsCallerUpToTheBound) {
  Queue queue({.waiting = 8, .caller_waiting = 8, .caller_running = 1, .caller_parked = 1});
  for (const char* task : {"a1", "a2", "a3", "a4"}) ASSERT_TRUE(Push(queue, "a", task));
  EXPECT_EQ(Pop(queue), "a1");
  EXPECT_EQ(Pop(queue), "");
  queue.Park("a");
  EXPECT_EQ(Pop(queue), "a2");
  queue.Park("a");
  EXPECT_EQ(Pop(queue), "") << "two wait, and one of them counts";
  queue.Unpark("a");
  queue.Done("a");
  EXPECT_EQ(Pop(queue), "a3");
  queue.Unpark("a");
  queue.Done("a");
  EXPECT_EQ(Pop(queue), "") << "a3 runs and nothing is parked";
  queue.Done("a");
  EXPECT_EQ(Pop(queue), "a4");
}

TEST(FairQueue, ACallerThatCameBackStartsAnew) {
  Queue queue({.waiting = 8, .caller_waiting = 8, .caller_running = 1});
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Push(queue, "a", "a"));
    EXPECT_EQ(Pop(queue), "a");
    queue.Done("a");
  }
  EXPECT_EQ(queue.size(), 0u);
}

}  // namespace
}  // namespace keyload
