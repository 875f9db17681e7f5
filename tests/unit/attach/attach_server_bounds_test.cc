// What clients that do not get on may take of an AttachServer.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <vector>

#include "server/attach/attach_server.h"
#include "tests/unit/attach/attach_fixture.h"
#include "tests/unit/attach/raw_attach_client.h"

namespace keyload {
namespace {

using std::chrono::milliseconds;
// A client of a test gets on by one step within it, on any machine that is of use; what waits for its end waits so
// long.
constexpr milliseconds kTimeForOneStep(1000);

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(AttachServerTest, GivesUpClientsThatSayNothing) {
  Start({}, {.acknowledge = milliseconds(20)});
  RawAttachClient client(path_);
  EXPECT_EQ(LastError(client).reason, "DEADLINE_EXCEEDED");
  source_->WaitForRefusals(1);
}

TEST_F(AttachServerTest, GivesUpClientsThatDoNotAcknowledge) {
  Start({}, {.acknowledge = kTimeForOneStep});
  RawAttachClient client = Greeted();
  EXPECT_THAT(source_->WaitForEnds(1), ElementsAre(AttachEnd::kNotAcknowledged));
  EXPECT_TRUE(client.ReceiveA<AttachGranted>());  // and finds out why when it reads
  EXPECT_EQ(LastError(client).reason, "DEADLINE_EXCEEDED");
}

TEST_F(AttachServerTest, FiveClientsThatNeverReadStopNobody) {
  // 64 descriptors: at most 16 on their way, one of a client; each of the five keeps its own unread for good.
  Start({.segments = 40}, {.descriptors = 64, .acknowledge = kTimeForOneStep});
  std::vector<RawAttachClient> silent;
  for (int i = 0; i < 5; ++i) {
    silent.push_back(Greeted());
    EXPECT_TRUE(silent.back().ReceiveA<AttachGranted>());
    silent.back().Send(AttachNext{.descriptor = 1});
  }
  RawAttachClient honest = Attached();
  EXPECT_THAT(source_->WaitForEnds(5), Each(AttachEnd::kNotAcknowledged));
  EXPECT_EQ(server_->Count().descriptors_unread, 5u);
  EXPECT_EQ(server_->Count().descriptors_in_flight, 0u);
  RawAttachClient later = Attached();
  source_->WaitForAttached(2);
  silent.clear();
  while (server_->Count().descriptors_unread > 0) {
  }
  EXPECT_EQ(server_->Count().connections, 2u);
}

TEST_F(AttachServerTest, TakesNoMoreOfAUserWhoseClientsNeverRead) {
  // 128 descriptors: two of a client, 16 unread of a user.
  Start({.segments = 2}, {.descriptors = 128, .acknowledge = kTimeForOneStep});
  std::vector<RawAttachClient> silent;
  for (int i = 0; i < 8; ++i) {
    silent.push_back(Greeted());
    EXPECT_TRUE(silent.back().ReceiveA<AttachGranted>());
    silent.back().Send(AttachNext{.descriptor = 1});
  }
  source_->WaitForEnds(8);
  EXPECT_EQ(server_->Count().descriptors_unread, 16u);
  RawAttachClient refused(path_);
  EXPECT_THAT(LastError(refused).text, HasSubstr("unread"));
  // One of them reads after all.
  EXPECT_TRUE(silent[0].ReceiveA<AttachDescriptors>());
  LastError(silent[0]);
  while (server_->Count().descriptors_unread >= 16) {
  }
  RawAttachClient client = Attached();
  source_->WaitForAttached(1);
}

// Clients that have received, and do not acknowledge, as many descriptors as may be on their way.
class FullAttachServer : public AttachServerTest {
 protected:
  // 256 descriptors: 64 on their way, four of a client.
  void StartFull(milliseconds room) {
    Start({.segments = 5}, {.descriptors = 256, .acknowledge = kPatient, .room = room});
    while (server_->Count().descriptors_in_flight < 64) {
      slow_.push_back(Greeted());
      ASSERT_TRUE(slow_.back().ReceiveA<AttachGranted>());
      slow_.back().Send(AttachNext{.descriptor = 1});
      ASSERT_EQ(slow_.back().ReceiveA<AttachDescriptors>().value().count, 4u);
    }
  }
  std::vector<RawAttachClient> slow_;
};

TEST_F(FullAttachServer, ServesWhoWaitsWhenThereIsRoom) {
  StartFull(kPatient);
  RawAttachClient client = Greeted();
  server_->Count();  // its greeting may still come; nothing is sent to it either way
  slow_[3].Send(AttachNext{.descriptor = 5});
  EXPECT_TRUE(client.ReceiveA<AttachGranted>());
  EXPECT_TRUE(slow_[3].ReceiveA<AttachDescriptors>());
}

TEST_F(FullAttachServer, SaysThatThereWasNoRoom) {
  StartFull(kTimeForOneStep);
  RawAttachClient client = Greeted();
  EXPECT_EQ(LastError(client).reason, "LOAD_QUEUE_FULL");
  EXPECT_THAT(source_->WaitForEnds(1), ElementsAre(AttachEnd::kNoRoom));
}

TEST_F(AttachServerTest, BoundsConnectionsThatSayNothing) {
  Start({}, {.descriptors = 64, .acknowledge = kPatient});
  std::vector<RawAttachClient> silent;
  for (int i = 0; i < 2; ++i) silent.emplace_back(path_);
  RawAttachClient refused(path_);
  EXPECT_EQ(LastError(refused).reason, "LOAD_QUEUE_FULL");
  silent.pop_back();
  while (server_->Count().connections > 1) {
  }
  RawAttachClient client = Greeted();
  EXPECT_TRUE(client.ReceiveA<AttachGranted>());
}

}  // namespace
}  // namespace keyload
