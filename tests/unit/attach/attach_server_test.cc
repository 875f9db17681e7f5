#include "server/attach/attach_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <future>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "server/base/error.h"
#include "tests/unit/attach/attach_fixture.h"
#include "tests/unit/attach/raw_attach_client.h"

namespace keyload {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

TEST_F(AttachServerTest, HandsOutTheTableAndThenBatches) {
  Start({.segments = 7});
  RawAttachClient client = Greeted(3);
  const auto granted = client.ReceiveA<AttachGranted>();
  ASSERT_TRUE(granted);
  EXPECT_EQ(granted->generation, 7u);
  EXPECT_EQ(granted->descriptors, 8u);
  EXPECT_EQ(granted->lease, "lease-000001");
  EXPECT_EQ(client.descriptors().size(), 1u);
  std::vector<uint32_t> counts;
  for (uint32_t next = 1; next < 8;) {
    client.Send(AttachNext{.descriptor = next});
    const auto message = client.ReceiveA<AttachDescriptors>();
    ASSERT_TRUE(message);
    EXPECT_EQ(message->first, next);
    EXPECT_EQ(client.descriptors().size(), message->count);
    counts.push_back(message->count);
    next += message->count;
  }
  EXPECT_THAT(counts, ElementsAre(3, 3, 1));
  EXPECT_EQ(source_->attached(), 0u);
  client.Send(AttachNext{.descriptor = 8});
  source_->WaitForAttached(1);
  EXPECT_EQ(server_->Count().leases, 1u);
  EXPECT_EQ(server_->Count().descriptors_in_flight, 0u);
  client.Close();
  EXPECT_THAT(source_->WaitForEnds(1), ElementsAre(AttachEnd::kClosed));
}

TEST_F(AttachServerTest, KnowsItsPeers) {
  Start();
  RawAttachClient client = Greeted(1, "worker \xff");
  client.Receive();
  const AttachPeer peer = source_->last_peer();
  EXPECT_EQ(peer.process.pid, getpid());
  EXPECT_EQ(peer.process.uid, getuid());
  EXPECT_EQ(peer.process.gids[0], getgid());
  EXPECT_EQ(peer.label, "worker \xef\xbf\xbd");
}

TEST_F(AttachServerTest, TakesATokenOnce) {
  Start();
  const AttachTokenBytes token = source_->MakeToken();
  RawAttachClient first(path_);
  first.Send(AttachHello{.token = token, .batch = 1});
  EXPECT_TRUE(first.ReceiveA<AttachGranted>());
  RawAttachClient second(path_);
  second.Send(AttachHello{.token = token, .batch = 1});
  const AttachError error = LastError(second);
  EXPECT_EQ(error.reason, "TOKEN_INVALID");
  EXPECT_EQ(error.code, absl::StatusCode::kUnauthenticated);
}

TEST_F(AttachServerTest, TakesNoForeignToken) {
  Start();
  source_->MakeToken();
  RawAttachClient client(path_);
  client.Send(AttachHello{.token = {0xff, 0xff}, .batch = 1});
  EXPECT_EQ(LastError(client).reason, "TOKEN_INVALID");
  EXPECT_EQ(ErrorReason(source_->WaitForRefusals(1)[0]), Reason::kTokenInvalid);
}

TEST_F(AttachServerTest, GivesALeaseToWhoMayCallWithoutAToken) {
  Start();
  RawAttachClient client(path_);
  client.Send(AttachRequest{.batch = 2, .label = "l", .model = "m"});
  EXPECT_TRUE(client.ReceiveA<AttachGranted>());
}

TEST_F(AttachServerTest, GivesNoLeaseToOthersWithoutAToken) {
  rules_.Set({.uids = {getuid() + 1}, .gids = {}});
  Start();
  RawAttachClient client(path_);
  client.Send(AttachRequest{.batch = 2, .label = "l", .model = "m"});
  EXPECT_EQ(LastError(client).reason, "PEER_NOT_ALLOWED");
  RawAttachClient with_token = Greeted();  // whoever was let in elsewhere has handed it over
  EXPECT_TRUE(with_token.ReceiveA<AttachGranted>());
}

TEST_F(AttachServerTest, WaitsForTheSourceWithoutAThread) {
  Start();
  source_->HoldRequests();
  RawAttachClient client(path_);
  client.Send(AttachRequest{.batch = 2, .label = "l", .model = "m", .keys = {"k"}});
  FakeAttachSource::Asked asked = source_->TakeRequest();
  EXPECT_EQ(asked.request.model, "m");
  EXPECT_THAT(asked.request.keys, ElementsAre("k"));
  RawAttachClient other = Attached();  // gets on meanwhile
  asked.done(source_->MakeLease(asked.peer));
  EXPECT_TRUE(client.ReceiveA<AttachGranted>());
}

// A lease of more segments than a client can be told.
class TooLargeLease : public AttachLease {
 public:
  explicit TooLargeLease(std::promise<AttachEnd>& end) : end_(end) {}
  std::string_view name() const override { return "too-large"; }
  uint64_t generation() const override { return 1; }
  uint32_t segments() const override { return kMostAttachDescriptors; }
  absl::StatusOr<std::shared_ptr<const UniqueFd>> Open(uint32_t) override { return absl::InternalError("not asked"); }
  void Attached() override {}
  void Ended(AttachEnd end) override { end_.set_value(end); }

 private:
  std::promise<AttachEnd>& end_;
};

TEST_F(AttachServerTest, RefusesALeaseOfTooManySegments) {
  Start();
  source_->HoldRequests();
  RawAttachClient client(path_);
  client.Send(AttachRequest{.batch = 2, .label = "l", .model = "m"});
  std::promise<AttachEnd> end;
  source_->TakeRequest().done(std::make_unique<TooLargeLease>(end));
  EXPECT_EQ(LastError(client).reason, "INTERNAL");
  EXPECT_EQ(end.get_future().get(), AttachEnd::kFailed);
}

TEST_F(AttachServerTest, StopsTheSourceWhenTheClientGoes) {
  Start();
  source_->HoldRequests();
  RawAttachClient client(path_);
  client.Send(AttachRequest{.batch = 2, .label = "l", .model = "m"});
  FakeAttachSource::Asked asked = source_->TakeRequest();
  client.Close();
  std::promise<void> stopped;
  const std::stop_callback on_stop(asked.stop, [&] { stopped.set_value(); });
  stopped.get_future().wait();
  asked.done(source_->MakeLease(asked.peer));  // too late
  EXPECT_THAT(source_->WaitForEnds(1), ElementsAre(AttachEnd::kClosed));
}

TEST_F(AttachServerTest, EndsALeaseThatComesWhenItIsGone) {
  Start();
  source_->HoldRequests();
  RawAttachClient client(path_);
  client.Send(AttachRequest{.batch = 2, .label = "l", .model = "m"});
  FakeAttachSource::Asked asked = source_->TakeRequest();
  server_ = nullptr;
  asked.done(source_->MakeLease(asked.peer));
  EXPECT_THAT(source_->WaitForEnds(1), ElementsAre(AttachEnd::kServerStopped));
}

TEST_F(AttachServerTest, RefusesWhatIsNoMessage) {
  Start();
  const std::string hello = *EncodeAttachMessage(AttachHello{.token = source_->MakeToken(), .batch = 1});
  for (const std::string& packet :
       {std::string("x"), std::string(4096, 'K'), hello + "x", std::string(5000, 'K'),
        *EncodeAttachMessage(AttachNext{.descriptor = 1}), *EncodeAttachMessage(AttachRelease())}) {
    RawAttachClient client(path_);
    client.SendBytes(packet);
    EXPECT_EQ(LastError(client).reason, "BAD_REQUEST") << packet.substr(0, 8);
  }
}

TEST_F(AttachServerTest, SaysWhyAlsoToWhoHasSentMoreThanItReads) {
  Start();
  RawAttachClient client(path_);
  client.SendBytes("x");
  for (int i = 0; i < 8; ++i) client.SendBytes("more");
  EXPECT_EQ(LastError(client).reason, "BAD_REQUEST");
}

TEST_F(AttachServerTest, TakesNoDescriptorsFromClients) {
  Start({.segments = 0});
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd kept(ends[0]);
  UniqueFd sent(ends[1]);
  const int number = sent.get();
  RawAttachClient client(path_);
  client.Send(AttachHello{.token = source_->MakeToken(), .batch = 1}, std::span(&number, 1));
  EXPECT_TRUE(client.ReceiveA<AttachGranted>());
  sent = UniqueFd();
  char byte = 0;
  EXPECT_EQ(recv(kept.get(), &byte, 1, 0), 0);  // nobody has the other end any more
}

TEST_F(AttachServerTest, RefusesWhatComesOutOfTurn) {
  Start();
  RawAttachClient twice = Greeted();
  EXPECT_TRUE(twice.ReceiveA<AttachGranted>());
  twice.Send(AttachHello{.token = source_->MakeToken(), .batch = 1});
  EXPECT_EQ(LastError(twice).reason, "BAD_REQUEST");
  for (const uint32_t next : {2u, 1024u}) {
    RawAttachClient client = Greeted();
    EXPECT_TRUE(client.ReceiveA<AttachGranted>());
    client.Send(AttachNext{.descriptor = next});
    EXPECT_EQ(LastError(client).reason, "BAD_REQUEST");
  }
  RawAttachClient held = Attached();
  held.Send(AttachNext{.descriptor = 1});
  EXPECT_EQ(LastError(held).reason, "BAD_REQUEST");
  EXPECT_THAT(source_->WaitForEnds(4), Each(AttachEnd::kProtocolError));
}

TEST_F(AttachServerTest, SendsAgainWhatDidNotArrive) {
  Start({.segments = 6});
  RawAttachClient client = Greeted();
  EXPECT_TRUE(client.ReceiveA<AttachGranted>());
  client.Send(AttachNext{.descriptor = 1});
  EXPECT_EQ(client.ReceiveA<AttachDescriptors>().value().count, 6u);
  client.Send(AttachNext{.descriptor = 3});  // 1 and 2 have
  const auto rest = client.ReceiveA<AttachDescriptors>();
  ASSERT_TRUE(rest);
  EXPECT_EQ(rest->first, 3u);
  EXPECT_EQ(rest->count, 4u);
  client.Send(AttachNext{.descriptor = 3});  // none has: it would go on for ever
  EXPECT_EQ(LastError(client).reason, "BAD_REQUEST");
}

TEST_F(AttachServerTest, SaysWhichDescriptorCannotBeOpened) {
  Start({.segments = 4});
  source_->BreakDescriptor(3);
  RawAttachClient client = Greeted();
  EXPECT_TRUE(client.ReceiveA<AttachGranted>());
  client.Send(AttachNext{.descriptor = 1});
  const AttachError error = LastError(client);
  EXPECT_EQ(error.reason, "IO_ERROR");
  EXPECT_THAT(error.text, HasSubstr("broke"));
  EXPECT_THAT(source_->WaitForEnds(1), ElementsAre(AttachEnd::kFailed));
}

TEST_F(AttachServerTest, EndsALeaseWhenItIsReleased) {
  Start();
  RawAttachClient client = Attached();
  client.Send(AttachRelease());
  EXPECT_FALSE(client.Receive());
  EXPECT_THAT(source_->WaitForEnds(1), ElementsAre(AttachEnd::kReleased));
}

TEST_F(AttachServerTest, PassesNotesOn) {
  Start();
  RawAttachClient client = Attached();
  source_->WaitForAttached(1);
  server_->Note("lease-000001", AttachNoteKind::kNewGeneration, 8);
  server_->Note("lease-000009", AttachNoteKind::kNewGeneration, 9);  // of nobody
  server_->NoteAll(AttachNoteKind::kDraining);
  const auto first = client.ReceiveA<AttachNote>();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->kind, AttachNoteKind::kNewGeneration);
  EXPECT_EQ(first->generation, 8u);
  EXPECT_EQ(client.ReceiveA<AttachNote>().value().kind, AttachNoteKind::kDraining);
}

TEST_F(AttachServerTest, KeepsTheLastNoteForWhoDoesNotRead) {
  Start();
  RawAttachClient client = Attached();
  source_->WaitForAttached(1);
  constexpr uint64_t kNotes = 20'000;  // more than the socket takes
  for (uint64_t i = 1; i <= kNotes; ++i) server_->Note("lease-000001", AttachNoteKind::kNewGeneration, i);
  server_->Count();  // all of them have been handled
  uint64_t received = 0;
  uint64_t last = 0;
  while (last < kNotes) {
    const auto note = client.ReceiveA<AttachNote>();
    ASSERT_TRUE(note);
    EXPECT_GT(note->generation, last);
    last = note->generation;
    ++received;
  }
  EXPECT_LT(received, kNotes);
}

TEST_F(AttachServerTest, EndsALeaseAndSaysWhy) {
  Start();
  RawAttachClient client = Attached();
  source_->WaitForAttached(1);
  server_->End("lease-000001", MakeError(Reason::kModelNotFound, "unloaded"));
  const auto note = client.ReceiveA<AttachNote>();
  ASSERT_TRUE(note);
  EXPECT_EQ(note->kind, AttachNoteKind::kLeaseEnded);
  EXPECT_EQ(LastError(client).text, "unloaded");
  EXPECT_THAT(source_->WaitForEnds(1), ElementsAre(AttachEnd::kEndedByServer));
  EXPECT_EQ(server_->Count().leases, 0u);
}

TEST_F(AttachServerTest, EndsALeaseThatIsNotComplete) {
  Start();
  RawAttachClient client = Greeted();
  EXPECT_TRUE(client.ReceiveA<AttachGranted>());
  server_->End("lease-000001", MakeError(Reason::kModelNotFound, "unloaded"));
  EXPECT_EQ(LastError(client).reason, "MODEL_NOT_FOUND");
}

TEST_F(AttachServerTest, EndsItsLeasesWithItself) {
  Start();
  RawAttachClient held = Attached();
  RawAttachClient greeted = Greeted();
  EXPECT_TRUE(greeted.ReceiveA<AttachGranted>());
  server_ = nullptr;
  EXPECT_FALSE(held.Receive());
  EXPECT_THAT(source_->WaitForEnds(2), Each(AttachEnd::kServerStopped));
  EXPECT_EQ(source_->open_leases(), 0u);
}

}  // namespace
}  // namespace keyload
