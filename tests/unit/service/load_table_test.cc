#include "server/service/load_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

LoadIdentity Identity(const std::string& model, const std::string& request_id = "", const std::string& digest = "d") {
  return {.load = "", .model = model, .request_id = request_id, .digest = digest};
}

class LoadTableTest : public testing::Test {
 protected:
  void End(const std::shared_ptr<SharedLoad>& load, absl::StatusOr<LoadReport> result) {
    load->End(std::move(result));
    table_.Ended(load);
  }
  // A load that somebody waits for.
  std::shared_ptr<SharedLoad> Begin(LoadIdentity identity) {
    auto load = table_.Add(std::move(identity));
    load->Begin({.observer = std::make_shared<RecordingObserver>()});
    return load;
  }
  std::vector<std::string> Names(std::string_view after = "", size_t most = 100) {
    std::vector<std::string> names;
    const auto loads = table_.List(after, most);
    for (const auto& load : *loads) names.push_back(load->identity().load);
    return names;
  }

  LoadTable table_{{.ended_loads = 3, .ended_bytes = 1 << 20}};
};

TEST_F(LoadTableTest, NamesLoadsAndListsThemInOrder) {
  for (const char* model : {"a", "b", "c"}) table_.Add(Identity(model));
  EXPECT_THAT(Names(), ElementsAre("load-000001", "load-000002", "load-000003"));
  EXPECT_THAT(Names("load-000001", 1), ElementsAre("load-000002"));
  EXPECT_THAT(Names("load-000003"), IsEmpty());
  EXPECT_EQ((*table_.Find("load-000002"))->identity().model, "b");
}

TEST_F(LoadTableTest, WhatIsNoNameOfALoadIsNotFound) {
  table_.Add(Identity("a"));
  for (const char* name : {"", "load-", "load-1", "load-0000001", "load-000002", "LOAD-000001", "load-000001 "}) {
    EXPECT_EQ(ErrorReason(table_.Find(name).status()), Reason::kLoadNotFound) << name;
  }
  EXPECT_LT(table_.Find(std::string(1 << 20, 'x')).status().message().size(), 1000);
}

TEST_F(LoadTableTest, KeepsTheLastThatEnded) {
  std::vector<std::shared_ptr<SharedLoad>> loads;
  for (int i = 0; i < 6; ++i) loads.push_back(table_.Add(Identity("m")));
  for (const int i : {4, 0, 1, 2, 3}) End(loads[i], LoadReport());
  EXPECT_THAT(Names(), ElementsAre("load-000002", "load-000003", "load-000004", "load-000006")) << "one of them runs";
  EXPECT_THAT(table_.Running(), ElementsAre(loads[5]));
}

TEST_F(LoadTableTest, NamesWhatItDrops) {
  std::vector<std::shared_ptr<SharedLoad>> loads;
  for (int i = 0; i < 4; ++i) loads.push_back(table_.Add(Identity("m")));
  for (int i = 0; i < 3; ++i) {
    loads[i]->End(LoadReport());
    EXPECT_THAT(table_.Ended(loads[i]), IsEmpty());
  }
  loads[3]->End(LoadReport());
  EXPECT_THAT(table_.Ended(loads[3]), ElementsAre("load-000001"));
}

TEST(LoadTableRestore, TakesOverLoadsWithTheirRequestIdsAndNumbersNewOnesAbove) {
  LoadTable table({.ended_loads = 2, .first_number = 1000});
  LoadReport report;
  report.outcome = Outcome::kComplete;
  EXPECT_THAT(table.Restore({.load = "load-000001", .model = "m", .digest = "d"}, {"a", "b"}, report), IsEmpty());
  EXPECT_THAT(table.Restore({.load = "no name", .model = "m"}, {"c"}, report), IsEmpty());
  EXPECT_EQ((*table.FindRequest(Identity("m", "b")))->identity().load, "load-000001");
  EXPECT_EQ(ErrorReason(table.FindRequest(Identity("m", "a", "other")).status()), Reason::kRequestIdReused);
  EXPECT_EQ(ErrorReason(table.FindByRequestId("c").status()), Reason::kLoadNotFound);
  const auto added = table.Add(Identity("n", "x"));
  EXPECT_EQ(added->identity().load, "load-001001");
  EXPECT_THAT(table.RequestIds(*added), ElementsAre("x"));
  table.Restore({.load = "load-000002", .model = "m"}, {}, report);
  EXPECT_THAT(table.Restore({.load = "load-000003", .model = "m"}, {}, report), ElementsAre("load-000001"));
}

TEST_F(LoadTableTest, KeepsNoMoreBytesOfReportsThanItMay) {
  LoadReport large;
  large.missing_keys.assign(3, std::string(200'000, 'k'));
  for (int i = 0; i < 3; ++i) End(table_.Add(Identity("m")), large);
  EXPECT_THAT(Names(), ElementsAre("load-000003"));
  large.missing_keys.assign(9, std::string(200'000, 'k'));
  End(table_.Add(Identity("m")), large);
  EXPECT_THAT(Names(), ElementsAre("load-000004")) << "the last one stays, whatever its size";
}

TEST_F(LoadTableTest, FindsARunningLoadOfTheSameRequest) {
  const auto load = Begin(Identity("m"));
  EXPECT_EQ(table_.FindRunning(Identity("m")), load);
  EXPECT_EQ(table_.FindRunning(Identity("n")), nullptr);
  EXPECT_EQ(table_.FindRunning(Identity("m", "", "other")), nullptr);
  Begin(Identity("k", "", ""));
  EXPECT_EQ(table_.FindRunning(Identity("k", "", "")), nullptr) << "no digest equals no other";
  load->Close();
  EXPECT_EQ(table_.FindRunning(Identity("m")), nullptr);
}

TEST_F(LoadTableTest, ARequestIdStandsForALoadThatRunsOrAnswered) {
  EXPECT_EQ(*table_.FindRequest(Identity("m", "id")), nullptr);
  EXPECT_EQ(*table_.FindRequest(Identity("m", "")), nullptr);
  const auto load = table_.Add(Identity("m", "id"));
  EXPECT_EQ(*table_.FindRequest(Identity("m", "id")), load);
  EXPECT_EQ(*table_.FindByRequestId("id"), load);
  EXPECT_EQ(ErrorReason(table_.FindRequest(Identity("m", "id", "other")).status()), Reason::kRequestIdReused);
  EXPECT_EQ(ErrorReason(table_.FindRequest(Identity("n", "id")).status()), Reason::kRequestIdReused);
  End(load, LoadReport{.outcome = Outcome::kIncomplete});
  EXPECT_EQ(*table_.FindRequest(Identity("m", "id")), load);
  EXPECT_EQ(ErrorReason(table_.FindByRequestId("none").status()), Reason::kLoadNotFound);
}

TEST_F(LoadTableTest, TheIdOfALoadThatFailedIsFreeAgain) {
  End(table_.Add(Identity("m", "failed")), LoadReport{.outcome = Outcome::kFailed});
  End(table_.Add(Identity("m", "cancelled")), LoadReport{.outcome = Outcome::kCancelled});
  End(table_.Add(Identity("m", "broken")), MakeError(Reason::kCheckpointCorrupt, "broken"));
  for (const char* id : {"failed", "cancelled", "broken"}) {
    EXPECT_EQ(*table_.FindRequest(Identity("n", id, "other")), nullptr) << id;
  }
  const auto again = table_.Add(Identity("m", "failed"));
  End(table_.Add(Identity("x")), LoadReport());  // the first of this id goes
  EXPECT_EQ(*table_.FindByRequestId("failed"), again);
}

TEST_F(LoadTableTest, TheIdOfWhoJoinsStandsForTheLoadToo) {
  const auto load = table_.Add(Identity("m", "first"));
  ASSERT_TRUE(table_.AddRequest(*load, Identity("m", "second")).ok());
  EXPECT_EQ(*table_.FindByRequestId("second"), load);
  EXPECT_EQ(*table_.FindRequest(Identity("m", "second")), load);
  EXPECT_EQ(ErrorReason(table_.FindRequest(Identity("m", "second", "other")).status()), Reason::kRequestIdReused);
  End(load, LoadReport{.outcome = Outcome::kComplete});
  for (int i = 0; i < 3; ++i) End(table_.Add(Identity("x")), LoadReport());
  EXPECT_EQ(ErrorReason(table_.FindByRequestId("second").status()), Reason::kLoadNotFound) << "it went with the load";
}

TEST_F(LoadTableTest, APageBeginsBehindALoad) {
  EXPECT_EQ(ErrorReason(table_.List("load-x", 1).status()), Reason::kBadRequest);
  EXPECT_TRUE(table_.List("load-000007", 1).ok()) << "it may be gone by then";
}

TEST_F(LoadTableTest, KeepsReportsOfWhatWasNoLoad) {
  const std::string name = table_.NextName();
  table_.AddEnded({.load = name, .model = "m", .outcome = Outcome::kComplete});
  const LoadStatus status = (*table_.Find(name))->status();
  EXPECT_TRUE(status.done);
  EXPECT_EQ((*status.result)->outcome, Outcome::kComplete);
  EXPECT_EQ(status.identity.model, "m");
}

TEST_F(LoadTableTest, AddRequestBeyondTheBoundOfIdsIsQueueFull) {
  LoadTable table({.request_ids = 2});
  const auto load = table.Add(Identity("m", "first"));
  EXPECT_TRUE(table.AddRequest(*load, Identity("m", "second")).ok());
  const absl::Status full = table.AddRequest(*load, Identity("m", "third"));
  EXPECT_EQ(ErrorReason(full), Reason::kLoadQueueFull);
  EXPECT_EQ(ErrorDetails(full)["load"], load->identity().load);
  EXPECT_FALSE(table.FindByRequestId("third").ok());
  EXPECT_TRUE(table.AddRequest(*load, Identity("m")).ok()) << "without an id there is nothing to keep";
}

}  // namespace
}  // namespace keyload
