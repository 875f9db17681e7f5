#include "keyload/attach.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/attach/attach_table_builder.h"
#include "server/base/error.h"
#include "tests/unit/attach/attach_fixture.h"
#include "tests/unit/attach/raw_attach_client.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

AttachToken Token(const AttachTokenBytes& bytes) { return {.bytes = std::string(bytes.begin(), bytes.end())}; }

class AttachTest : public AttachFixture {
 protected:
  absl::StatusOr<AttachedModel> AttachNow(const AttachOptions& options = {}) {
    return Attach(address(), Token(source_->MakeToken()), options);
  }
};

TEST_F(AttachTest, GivesEveryByteOfEveryTensor) {
  Start({.segments = 5, .tensors = 33, .elements = 100});
  const absl::StatusOr<AttachedModel> model = AttachNow({.label = "test", .batch = 2});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->lease(), "lease-000001");
  EXPECT_EQ(model->generation(), 7u);
  EXPECT_TRUE(model->immutable());
  ASSERT_EQ(model->size(), 33u);
  for (size_t i = 0; i < model->size(); ++i) {
    const AttachedTensor tensor = (*model)[i];
    EXPECT_EQ(tensor.key, FakeAttachModel::Key(tensor.order));
    EXPECT_EQ(tensor.dtype, "U8");
    EXPECT_THAT(tensor.shape, ElementsAre(100));
    EXPECT_TRUE(tensor.resident);
    const std::span<const uint8_t> elements = tensor.As<uint8_t>();
    ASSERT_EQ(elements.size(), 100u);
    for (size_t j = 0; j < elements.size(); ++j) ASSERT_EQ(elements[j], FakeAttachModel::ByteAt(tensor.order, j));
    EXPECT_TRUE(tensor.As<uint16_t>().empty());
  }
  const auto found = model->Find(FakeAttachModel::Key(17));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->order, 17u);
  EXPECT_FALSE(model->Find("layers.33.weight"));
}

TEST_F(AttachTest, NeedsNoTokenOfWhoMayCall) {
  Start();
  const absl::StatusOr<AttachedModel> model = Attach(address(), AttachSelection{.model = "m"});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->size(), 12u);
}

TEST_F(AttachTest, OfKeysWithoutBytesHasNone) {
  Start({.segments = 0, .tensors = 2});
  const absl::StatusOr<AttachedModel> model = AttachNow();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_FALSE((*model)[0].resident);
  EXPECT_TRUE((*model)[0].bytes.empty());
}

TEST_F(AttachTest, SaysWhetherBytesMayStillCome) {
  Start({.protection = SealedMemory::Protection::kFromOutside});
  const absl::StatusOr<AttachedModel> model = AttachNow();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_FALSE(model->immutable());
}

TEST_F(AttachTest, HoldsTheLeaseAsLongAsItIsThere) {
  Start();
  {
    absl::StatusOr<AttachedModel> model = AttachNow();
    ASSERT_TRUE(model.ok()) << model.status();
    const AttachedModel moved = *std::move(model);
    source_->WaitForAttached(1);
    EXPECT_EQ(source_->open_leases(), 1u);
    EXPECT_EQ(moved.size(), 12u);
  }
  EXPECT_THAT(source_->WaitForEnds(1), ElementsAre(AttachEnd::kClosed));
}

TEST_F(AttachTest, KeepsItsBytesAfterRelease) {
  Start();
  absl::StatusOr<AttachedModel> model = AttachNow();
  ASSERT_TRUE(model.ok()) << model.status();
  model->Release();
  EXPECT_THAT(source_->WaitForEnds(1), ElementsAre(AttachEnd::kReleased));
  EXPECT_EQ(model->notice_fd(), -1);
  EXPECT_EQ(model->Find(FakeAttachModel::Key(3))->As<uint8_t>()[5], FakeAttachModel::ByteAt(3, 5));
  EXPECT_TRUE(absl::IsUnavailable(model->NextNotice().status()));
}

TEST_F(AttachTest, HearsNoticesAndTheEnd) {
  Start();
  absl::StatusOr<AttachedModel> model = AttachNow();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(*model->NextNotice(), std::nullopt);
  source_->WaitForAttached(1);
  server_->Note(model->lease(), AttachNoteKind::kNewGeneration, 8);
  server_->End(model->lease(), MakeError(Reason::kModelNotFound, "unloaded"));
  std::vector<int> kinds;
  while (true) {
    pollfd wait = {.fd = model->notice_fd(), .events = POLLIN, .revents = 0};
    poll(&wait, 1, -1);
    const auto notice = model->NextNotice();
    if (!notice.ok()) {
      EXPECT_EQ(notice.status().code(), absl::StatusCode::kUnavailable);
      EXPECT_EQ(AttachErrorReason(notice.status()), "MODEL_NOT_FOUND");
      break;
    }
    if (*notice) kinds.push_back(static_cast<int>((*notice)->kind));
  }
  EXPECT_THAT(kinds, ElementsAre(1, 2));
  EXPECT_EQ((*model)[0].As<uint8_t>().size(), 64u);  // still there
}

TEST_F(AttachTest, PassesTheServersErrorOn) {
  Start();
  const auto model = Attach(address(), AttachToken{.bytes = std::string(32, 'x')});
  EXPECT_EQ(model.status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(AttachErrorReason(model.status()), "TOKEN_INVALID");
}

TEST_F(AttachTest, RefusesArgumentsThatCannotBe) {
  Start();
  const auto code = [](const absl::StatusOr<AttachedModel>& model) { return model.status().code(); };
  const AttachToken token = Token(source_->MakeToken());
  EXPECT_EQ(code(Attach("127.0.0.1:1", token)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Attach("unix:" + std::string(200, 'x'), token)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Attach(address(), AttachToken{.bytes = "short"})), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Attach(address(), token, {.batch = 0})), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Attach(address(), token, {.label = std::string(129, 'x')})), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Attach(address(), AttachSelection{})), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Attach(address() + ".none", token)), absl::StatusCode::kUnavailable);
}

TEST_F(AttachTest, DoesNotWaitForEver) {
  const UniqueFd listening = ListenForAttach(path_);  // nobody accepts
  const auto model = Attach(address(), AttachSelection{.model = "m"}, {.timeout = absl::Milliseconds(20)});
  EXPECT_EQ(model.status().code(), absl::StatusCode::kDeadlineExceeded);
}

// A server that does one thing wrong.
class HostileServer : public AttachFixture {
 protected:
  struct Answers {
    std::function<void(AttachGranted&)> grant = [](AttachGranted&) {};
    std::function<void(AttachDescriptors&)> descriptors = [](AttachDescriptors&) {};
    UniqueFd table;    // instead of the model's
    UniqueFd segment;  // instead of every segment
    std::vector<int> extra;
  };
  std::string Problem(Answers answers) {
    model_ = std::make_shared<FakeAttachModel>(FakeAttachModel::Shape{.segments = 2});
    const UniqueFd listening = ListenForAttach(path_);
    std::thread server([&] {
      pollfd wait = {.fd = listening.get(), .events = POLLIN, .revents = 0};
      poll(&wait, 1, -1);
      RawAttachClient client(UniqueFd(accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC)));
      client.Receive();
      AttachGranted granted = {.generation = 7, .descriptors = 3, .lease = "l"};
      answers.grant(granted);
      std::vector<int> numbers = {answers.table ? answers.table.get() : model_->Open(0)->get()};
      client.Send(granted, numbers);
      if (!client.Receive()) return;
      AttachDescriptors message = {.first = 1, .count = 2};
      answers.descriptors(message);
      numbers.clear();
      for (uint32_t k = 1; k <= 2; ++k)
        numbers.push_back(answers.segment ? answers.segment.get() : model_->Open(k)->get());
      numbers.insert(numbers.end(), answers.extra.begin(), answers.extra.end());
      client.Send(message, numbers);
      client.Receive();
    });
    const auto model = Attach(address(), AttachSelection{.model = "m"});
    server.join();
    return std::string(model.status().message());
  }
  static UniqueFd Memfd(uint64_t bytes, int seals) {
    UniqueFd memfd(memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    EXPECT_EQ(ftruncate(memfd.get(), static_cast<off_t>(bytes)), 0);
    EXPECT_EQ(fcntl(memfd.get(), F_ADD_SEALS, seals), 0);
    return memfd;
  }
};

TEST_F(HostileServer, ThatDoesNothingWrongIsBelieved) { EXPECT_EQ(Problem({}), ""); }

TEST_F(HostileServer, ThatSendsAnotherTableIsNotBelieved) {
  EXPECT_THAT(Problem({.grant = [](AttachGranted& granted) { granted.generation = 8; }}), HasSubstr("another lease"));
  EXPECT_THAT(Problem({.grant = [](AttachGranted& granted) { granted.descriptors = 2; }}), HasSubstr("another lease"));
}

TEST_F(HostileServer, ThatCouldChangeTheTableIsNotBelieved) {
  EXPECT_THAT(Problem({.table = Memfd(8192, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE)}), HasSubstr("not sealed"));
  EXPECT_THAT(Problem({.table = Memfd(8192, F_SEAL_WRITE)}), HasSubstr("not sealed"));
  EXPECT_THAT(Problem({.table = Memfd(8192, F_SEAL_SHRINK | F_SEAL_WRITE)}), HasSubstr("KLTABLE1"));
  EXPECT_THAT(Problem({.table = Memfd(0, F_SEAL_SHRINK | F_SEAL_WRITE)}), HasSubstr("KLTABLE1"));
  EXPECT_THAT(Problem({.table = Memfd(uint64_t{2} << 30, F_SEAL_SHRINK | F_SEAL_WRITE)}), HasSubstr("too large"));
}

TEST_F(HostileServer, ThatCouldCutOrChangeASegmentIsNotBelieved) {
  EXPECT_THAT(Problem({.segment = Memfd(1 << 20, F_SEAL_WRITE)}), HasSubstr("not sealed"));
  EXPECT_THAT(Problem({.segment = Memfd(1 << 20, F_SEAL_SHRINK)}), HasSubstr("not sealed"));
  EXPECT_THAT(Problem({.segment = Memfd(100, F_SEAL_SHRINK | F_SEAL_WRITE)}), HasSubstr("smaller"));
  EXPECT_EQ(Problem({.segment = Memfd(1 << 20, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE)}), "");
  EXPECT_THAT(Problem({.segment = UniqueFd(open("/dev/zero", O_RDONLY | O_CLOEXEC))}), HasSubstr("no file"));
}

TEST_F(HostileServer, ThatMiscountsDescriptorsIsNotBelieved) {
  EXPECT_THAT(Problem({.descriptors = [](AttachDescriptors& message) { message.first = 2; }}), HasSubstr("are next"));
  EXPECT_THAT(Problem({.descriptors = [](AttachDescriptors& message) { message.count = 3; }}), HasSubstr("are next"));
  EXPECT_THAT(Problem({.descriptors = [](AttachDescriptors& message) { message.count = 1; }}), HasSubstr("are next"));
  EXPECT_THAT(Problem({.extra = {STDERR_FILENO}}), HasSubstr("are next"));
}

}  // namespace
}  // namespace keyload
