#include "server/service/shared_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  Waiting Begin(SharedLoad::Waiter options = {}) {
    Waiting waiting;
    options.observer = waiting.observer;
    waiting.id = load_.Begin(std::move(options));
    return waiting;
  }
  Waiting Join(SharedLoad::Waiter options = {}) {
    Waiting waiting;
    options.observer = waiting.observer;
    if (const auto joined = load_.Join(std::move(options)); joined.ok()) waiting.id = *joined;
    return waiting;
  }
  Waiting Watch() {
    Waiting waiting;
    waiting.id = *load_.Watch(waiting.observer);
    return waiting;
  }
  bool stopped() const { return !load_.context().Check().ok(); }

  SharedLoad load_{{.load = "load-000001", .model = "m", .request_id = "", .digest = "d"}};
};

LoadReport Ended(Outcome outcome) {
  LoadReport report = {.load = "load-000001", .outcome = outcome};
  if (outcome == Outcome::kCancelled) report.error = MakeError(Reason::kLoadCancelled, "cancelled");
  return report;
}

TEST_F(SharedLoadTest, WhoeverJoinsHearsWhatWasToldBefore) {
  const Waiting first = Begin();
  load_.Planned({});
  load_.Progress({.phase = "transfer"});
  const Waiting second = Join();
  EXPECT_THAT(second.observer->events(), ElementsAre("joined", "planned"));
  EXPECT_EQ(second.observer->last_phase(), "transfer");
  load_.End(Ended(Outcome::kComplete));
  const Waiting third = Join();
  for (const Waiting* waiting : {&first, &second, &third}) {
    EXPECT_EQ(waiting->observer->WaitForEnd()->outcome, Outcome::kComplete);
    EXPECT_EQ(waiting->observer->events().back(), "end");
  }
  EXPECT_THAT(third.observer->events(), ElementsAre("joined", "end"));
}

TEST_F(SharedLoadTest, RunsForTheLastWhoWaits) {
  const Waiting first = Begin();
  const Waiting second = Join();
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
  const Waiting first = Begin();
  EXPECT_TRUE(load_.joinable());
  load_.Leave(*first.id);
  EXPECT_FALSE(load_.joinable());
  EXPECT_FALSE(Join().id.has_value());
  const Waiting watcher = Watch();  // but its end can be watched
  load_.End(Ended(Outcome::kCancelled));
  EXPECT_EQ(watcher.observer->WaitForEnd()->outcome, Outcome::kCancelled);
  EXPECT_FALSE(Join().id.has_value()) << "somebody else's cancellation is no answer";
}

TEST_F(SharedLoadTest, AStopThatCameTooLateSpoilsNoAnswer) {
  const Waiting first = Begin();
  load_.Stop();
  load_.End(Ended(Outcome::kComplete));
  EXPECT_EQ(Join().observer->WaitForEnd()->outcome, Outcome::kComplete);
}

TEST_F(SharedLoadTest, NobodyJoinsALoadThatIsTooLate) {
  const Waiting first = Begin({.deadline = Deadline::After(-absl::Seconds(1))});
  EXPECT_FALSE(load_.joinable());
  EXPECT_FALSE(Join().id.has_value());
}

TEST_F(SharedLoadTest, ClosedItIsJoinedByItsIdOnly) {
  const Waiting first = Begin();
  load_.Close();
  EXPECT_FALSE(load_.joinable());
  EXPECT_TRUE(Join().id.has_value());
}

TEST_F(SharedLoadTest, OfAStoppedLoadEverybodyHearsTheEnd) {
  const Waiting first = Begin();
  const Waiting second = Join();
  load_.Stop();
  load_.Cancel(*second.id);
  EXPECT_THAT(second.observer->events(), ElementsAre("joined"));
  load_.End(Ended(Outcome::kCancelled));
  EXPECT_EQ(second.observer->WaitForEnd()->outcome, Outcome::kCancelled);
}

TEST_F(SharedLoadTest, DetachedItRunsForNobody) {
  const Waiting first = Begin();
  const Waiting second = Join({.deadline = Deadline::After(-absl::Seconds(1)), .detach = true});
  load_.Leave(*first.id);
  load_.Leave(*second.id);
  EXPECT_FALSE(stopped());
  EXPECT_EQ(ErrorReason(second.observer->WaitForEnd().status()), Reason::kLoadCancelled);
}

TEST_F(SharedLoadTest, TheLastCallerCancelsADetachedLoadToo) {
  const Waiting only = Begin({.detach = true});
  load_.Cancel(*only.id);
  EXPECT_TRUE(stopped());
}

TEST_F(SharedLoadTest, AWatcherKeepsNothingRunning) {
  const Waiting first = Begin();
  const Waiting watcher = Watch();
  load_.Leave(*watcher.id);
  EXPECT_EQ(ErrorReason(watcher.observer->WaitForEnd().status()), Reason::kLoadCancelled);
  const Waiting other = Watch();
  load_.Leave(*first.id);
  EXPECT_TRUE(stopped());
  load_.End(Ended(Outcome::kCancelled));
  EXPECT_EQ(other.observer->WaitForEnd()->outcome, Outcome::kCancelled);
}

TEST_F(SharedLoadTest, HasTheLatestDeadlineOfThoseWhoWait) {
  const Deadline soon = Deadline::After(absl::Minutes(1));
  const Deadline later = Deadline::After(absl::Hours(1));
  const Waiting first = Begin({.deadline = soon});
  EXPECT_EQ(load_.context().end(), soon);
  const Waiting second = Join({.deadline = later});
  EXPECT_EQ(load_.context().end(), later);
  const Waiting third = Join({.deadline = soon});
  EXPECT_EQ(load_.context().end(), later) << "less time than others have shortens nothing";
  const Waiting fourth = Join();
  EXPECT_EQ(load_.context().end(), Deadline::Never());
}

TEST_F(SharedLoadTest, LeavingTwiceOrAfterTheEndIsNothing) {
  const Waiting first = Begin();
  const Waiting second = Join();
  load_.Leave(*first.id);
  load_.Leave(*first.id);
  EXPECT_FALSE(stopped());
  load_.End(Ended(Outcome::kComplete));
  load_.Leave(*second.id);
  EXPECT_FALSE(stopped());
  EXPECT_THAT(first.observer->events(), ElementsAre("accepted", "end"));
}

TEST_F(SharedLoadTest, StatusIsWhatWasToldLast) {
  const Waiting first = Begin();
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

TEST_F(SharedLoadTest, OfTwoWishesBeforeItBeganTheStrongerCounts) {
  LoadTicket ticket;
  ticket.Cancel();
  ticket.Leave();
  const Waiting first = Begin({.detach = true});
  ticket.Bind(std::shared_ptr<SharedLoad>(std::shared_ptr<void>(), &load_), *first.id);
  EXPECT_TRUE(stopped());
}

TEST_F(SharedLoadTest, ATicketThatWasGivenUpBeforeTheLoadBeganLeavesIt) {
  LoadTicket ticket;
  ticket.Leave();
  const Waiting first = Begin();
  ticket.Bind(std::shared_ptr<SharedLoad>(std::shared_ptr<void>(), &load_), *first.id);
  EXPECT_TRUE(stopped());
}

TEST_F(SharedLoadTest, JoinAndWatchBeyondTheirBoundsAreQueueFull) {
  Begin();
  for (size_t i = 0; i < SharedLoad::kMostWaiters; ++i) ASSERT_TRUE(Watch().id);
  const auto observer = std::make_shared<RecordingObserver>();
  EXPECT_EQ(ErrorReason(load_.Watch(observer).status()), Reason::kLoadQueueFull);
  for (size_t i = 1; i < SharedLoad::kMostWaiters; ++i) ASSERT_TRUE(Join().id) << "those who watch keep nobody out";
  const absl::Status joined = load_.Join({.observer = observer}).status();
  EXPECT_EQ(ErrorReason(joined), Reason::kLoadQueueFull);
  EXPECT_EQ(ErrorDetails(joined)["load"], "load-000001");
  EXPECT_TRUE(observer->events().empty());
  load_.End(Ended(Outcome::kComplete));
  EXPECT_TRUE(load_.Join({.observer = observer}).ok()) << "who is answered at once waits for nothing";
}

TEST_F(SharedLoadTest, WhoStopsWatchingMakesRoom) {
  Begin();
  const Waiting gone = Watch();
  for (size_t i = 1; i < SharedLoad::kMostWaiters; ++i) Watch();
  load_.Leave(*gone.id);
  EXPECT_TRUE(Watch().id);
}

TEST(LoadTicket, WhoLeavesStopsWhatIsDoneForItAlone) {
  LoadTicket ticket;
  const std::stop_token token = ticket.stop_token();
  EXPECT_FALSE(token.stop_requested());
  ticket.Leave();
  EXPECT_TRUE(token.stop_requested());
}

// An observer without memory for a message.
class ThrowingObserver : public LoadObserver {
 public:
  void OnAccepted(const std::string& /*load*/, bool /*joined*/) override {}
  void OnPlanned(const LoadReport& /*report*/) override { throw std::bad_alloc(); }
  void OnProgress(const LoadProgress& /*progress*/) override { throw std::bad_alloc(); }
  void OnEnd(absl::StatusOr<LoadReport> result) override {
    if (result.ok()) throw std::bad_alloc();
    end = result.status();
  }
  absl::Status end;
};

TEST_F(SharedLoadTest, AnObserverThatThrowsHearsOfItAndTheOthersHearTheirs) {
  const auto throwing = std::make_shared<ThrowingObserver>();
  ASSERT_TRUE(load_.Begin({.observer = throwing}));
  const Waiting other = Join();
  load_.Planned({});
  load_.Progress({.phase = "transfer"});
  load_.End(Ended(Outcome::kComplete));
  EXPECT_EQ(ErrorReason(throwing->end), Reason::kMemoryExhausted);
  EXPECT_THAT(other.observer->events(), ElementsAre("joined", "planned", "end"));
}

}  // namespace
}  // namespace keyload
