#include "server/service/shared_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::ElementsAre;

class SharedLoadTest : public testing::Test {
 protected:
  struct Waiting {
    std::shared_ptr<RecordingObserver> observer = std::make_shared<RecordingObserver>();
    std::optional<SharedLoad::WaiterId> id;
  };
  Waiting Add(bool joins, SharedLoad::Waiter options = {}) {
    Waiting waiting;
    options.observer = waiting.observer;
    waiting.id = load_.Add(std::move(options), joins);
    return waiting;
  }
  bool stopped() const { return !load_.context().Check().ok(); }

  SharedLoad load_{{.load = "load-000001", .model = "m", .request_id = "", .digest = "d"}};
};

LoadReport Ended(Outcome outcome) { return {.load = "load-000001", .outcome = outcome}; }

TEST_F(SharedLoadTest, WhoeverJoinsHearsWhatWasToldBefore) {
  const Waiting first = Add(false);
  load_.Planned({});
  load_.Progress({.phase = "transfer"});
  const Waiting second = Add(true);
  EXPECT_THAT(second.observer->events(), ElementsAre("joined", "planned"));
  EXPECT_EQ(second.observer->last_phase(), "transfer");
  load_.End(Ended(Outcome::kComplete));
  const Waiting third = Add(true);
  for (const Waiting* waiting : {&first, &second, &third}) {
    EXPECT_EQ(waiting->observer->WaitForEnd()->outcome, Outcome::kComplete);
    EXPECT_EQ(waiting->observer->events().back(), "end");
  }
  EXPECT_THAT(third.observer->events(), ElementsAre("joined", "end"));
}

TEST_F(SharedLoadTest, RunsForTheLastWhoWaits) {
  const Waiting first = Add(false);
  const Waiting second = Add(true);
  load_.Leave(*first.id);
  EXPECT_FALSE(stopped());
  EXPECT_EQ(ErrorReason(first.observer->WaitForEnd().status()), Reason::kLoadCancelled) << "it goes on without it";
  load_.Cancel(*second.id);
  EXPECT_TRUE(stopped());
  EXPECT_THAT(second.observer->events(), ElementsAre("joined")) << "its end is still to come";
  load_.End(Ended(Outcome::kCancelled));
  EXPECT_EQ(second.observer->WaitForEnd()->outcome, Outcome::kCancelled);
}

TEST_F(SharedLoadTest, OnceStoppedNobodyJoins) {
  const Waiting first = Add(false);
  load_.Leave(*first.id);
  EXPECT_FALSE(Add(true).id.has_value());
  EXPECT_TRUE(Add(true, {.watches = true}).id.has_value()) << "but its end can be watched";
}

TEST_F(SharedLoadTest, DetachedItRunsForNobody) {
  const Waiting first = Add(false);
  const Waiting second = Add(true, {.deadline = absl::InfinitePast(), .detach = true});
  load_.Leave(*first.id);
  load_.Leave(*second.id);
  EXPECT_FALSE(stopped());
  EXPECT_EQ(ErrorReason(second.observer->WaitForEnd().status()), Reason::kLoadCancelled);
}

TEST_F(SharedLoadTest, TheLastCallerCancelsADetachedLoadToo) {
  const Waiting only = Add(false, {.detach = true});
  load_.Cancel(*only.id);
  EXPECT_TRUE(stopped());
}

TEST_F(SharedLoadTest, AWatcherKeepsNothingRunning) {
  const Waiting first = Add(false);
  const Waiting watcher = Add(true, {.watches = true});
  load_.Leave(*watcher.id);
  EXPECT_EQ(ErrorReason(watcher.observer->WaitForEnd().status()), Reason::kLoadCancelled);
  const Waiting other = Add(true, {.watches = true});
  load_.Leave(*first.id);
  EXPECT_TRUE(stopped());
  load_.End(Ended(Outcome::kCancelled));
  EXPECT_EQ(other.observer->WaitForEnd()->outcome, Outcome::kCancelled);
}

TEST_F(SharedLoadTest, HasTheLatestDeadlineOfThoseWhoWait) {
  const Waiting first = Add(false, {.deadline = absl::Now() - absl::Seconds(1)});
  EXPECT_EQ(ErrorReason(load_.context().Check()), Reason::kDeadlineExceeded);
  const Waiting second = Add(true, {.deadline = absl::Now() + absl::Hours(1)});
  EXPECT_TRUE(load_.context().Check().ok());
  const Waiting third = Add(true, {.deadline = absl::InfinitePast()});
  EXPECT_TRUE(load_.context().Check().ok()) << "less time than others have shortens nothing";
  const Waiting fourth = Add(true);
  EXPECT_TRUE(load_.context().Check().ok());
}

TEST_F(SharedLoadTest, LeavingTwiceOrAfterTheEndIsNothing) {
  const Waiting first = Add(false);
  const Waiting second = Add(true);
  load_.Leave(*first.id);
  load_.Leave(*first.id);
  EXPECT_FALSE(stopped());
  load_.End(Ended(Outcome::kComplete));
  load_.Leave(*second.id);
  EXPECT_FALSE(stopped());
  EXPECT_THAT(first.observer->events(), ElementsAre("accepted", "end"));
}

TEST_F(SharedLoadTest, StatusIsWhatWasToldLast) {
  const Waiting first = Add(false);
  EXPECT_FALSE(load_.status().done);
  load_.Progress({.phase = "queue"});
  load_.Progress({.phase = "transfer"});
  EXPECT_EQ(load_.status().progress->phase, "transfer");
  load_.End(MakeError(Reason::kIoError, "broken"));
  const LoadStatus status = load_.status();
  EXPECT_TRUE(status.done);
  EXPECT_FALSE(status.progress.has_value());
  EXPECT_EQ(ErrorReason(status.result->status()), Reason::kIoError);
  EXPECT_EQ(status.identity.model, "m");
}

TEST_F(SharedLoadTest, ATicketThatWasGivenUpBeforeTheLoadBeganLeavesIt) {
  LoadTicket ticket;
  ticket.Leave();
  const Waiting first = Add(false);
  ticket.Bind(std::shared_ptr<SharedLoad>(std::shared_ptr<void>(), &load_), *first.id);
  EXPECT_TRUE(stopped());
}

}  // namespace
}  // namespace keyload
