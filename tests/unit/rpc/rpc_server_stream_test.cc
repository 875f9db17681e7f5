// The Load stream, through a real channel.

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <ostream>

#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

using Outcome = v1::LoadReport;

TEST(LoadStream, ALoadIsAcceptedPlannedAndReported) {
  LoaderServer server;
  server.WriteSmall();
  TestContext context;
  const auto stream = server.stub().Load(&context);
  ASSERT_TRUE(stream->Write(StartRequest("one", server.Spec())));
  stream->WritesDone();
  const std::vector<v1::LoadResponse> events = ReadAll(*stream);
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_EQ(events.size(), 3);
  EXPECT_TRUE(events[0].has_accepted());
  EXPECT_EQ(events[1].planned().outcome(), Outcome::OUTCOME_PLANNED);
  EXPECT_EQ(events[2].report().outcome(), Outcome::OUTCOME_COMPLETE);
  EXPECT_EQ(events[2].report().load(), events[0].accepted().load());
  for (const v1::LoadResponse& event : events) EXPECT_EQ(event.load_id(), "one");
}

TEST(LoadStream, CancellingOneLoadLeavesTheOthers) {
  LoaderServer server({.load_threads = 2});
  server.WriteSmall();
  server.node().gpu().HoldCopies();
  TestContext context;
  const auto stream = server.stub().Load(&context);
  ASSERT_TRUE(stream->Write(StartRequest("kept", server.Spec("kept"))));
  ASSERT_TRUE(stream->Write(StartRequest("cancelled", server.Spec("cancelled"))));
  ASSERT_TRUE(stream->Write(StartRequest("queued", server.Spec("queued"))));
  server.node().gpu().WaitForCopiesStarted(2);
  // Whatever runs when its copies are held has read all: only what still waits can be cancelled for sure.
  ASSERT_TRUE(stream->Write(CancelRequest("queued")));
  // The refusal of this one says that the cancellation before it was taken.
  ASSERT_TRUE(stream->Write(StartRequest("refused", v1::LoadSpec())));
  v1::LoadResponse event;
  std::vector<v1::LoadResponse> events;
  do {
    ASSERT_TRUE(stream->Read(&event));
    events.push_back(event);
  } while (event.load_id() != "refused");
  server.node().gpu().ReleaseCopies();
  stream->WritesDone();
  for (const v1::LoadResponse& more : ReadAll(*stream)) events.push_back(more);
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(EndOf(events, "kept").report().outcome(), Outcome::OUTCOME_COMPLETE);
  EXPECT_EQ(EndOf(events, "cancelled").report().outcome(), Outcome::OUTCOME_COMPLETE);
  EXPECT_EQ(EndOf(events, "queued").error().reason(), "LOAD_CANCELLED");
  EXPECT_EQ(EndOf(events, "refused").error().reason(), "BAD_REQUEST");
}

TEST(LoadStream, ARunningLoadThatIsCancelledGivesItsMemoryBack) {
  LoaderServer server;
  WriteSafetensors(server.node().dir() + "/model.safetensors",
                   {{.name = "a", .dtype = DType::kU8, .shape = {32 << 20}, .data = ""}});
  server.node().gpu().HoldCopies();
  TestContext context;
  const auto stream = server.stub().Load(&context);
  ASSERT_TRUE(stream->Write(StartRequest("one", server.Spec())));
  server.node().gpu().WaitForCopiesStarted(1);
  ASSERT_TRUE(stream->Write(CancelRequest("one")));
  ASSERT_TRUE(stream->Write(StartRequest("refused", v1::LoadSpec())));
  v1::LoadResponse event;
  while (event.load_id() != "refused") ASSERT_TRUE(stream->Read(&event));
  server.node().gpu().ReleaseCopies();
  stream->WritesDone();
  const v1::LoadResponse end = EndOf(ReadAll(*stream), "one");
  EXPECT_EQ(end.report().outcome(), Outcome::OUTCOME_CANCELLED);
  EXPECT_EQ(end.report().error().reason(), "LOAD_CANCELLED");
  EXPECT_EQ(server.node().gpu().account().state().used, 0);
}

TEST(LoadStream, AClientThatHalfClosesStillGetsItsReport) {
  LoaderServer server;
  server.WriteSmall();
  server.node().gpu().HoldCopies();
  TestContext context;
  const auto stream = server.stub().Load(&context);
  ASSERT_TRUE(stream->Write(StartRequest("one", server.Spec())));
  stream->WritesDone();
  server.node().gpu().WaitForCopiesStarted(1);
  server.node().gpu().ReleaseCopies();
  EXPECT_EQ(EndOf(ReadAll(*stream), "one").report().outcome(), Outcome::OUTCOME_COMPLETE);
  EXPECT_TRUE(stream->Finish().ok());
}

TEST(LoadStream, DroppingTheStreamCancelsItsLoad) {
  LoaderServer server;
  server.WriteLarge();
  server.node().gpu().HoldCopies();
  {
    TestContext context;
    const auto stream = server.stub().Load(&context);
    ASSERT_TRUE(stream->Write(StartRequest("one", server.Spec())));
    server.node().gpu().WaitForCopiesStarted(1);
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  server.node().WaitForIdleReader();
  server.node().gpu().ReleaseCopies();
  server.WaitForNoLoad();
  EXPECT_TRUE(server.node().registry().List().empty());
  EXPECT_EQ(server.node().gpu().account().state().used, 0);
  EXPECT_EQ(server.node().gpu().account().state().reserved, 0);
}

TEST(LoadStream, ALoadIdThatIsInUseEndsTheStream) {
  LoaderServer server;
  server.WriteLarge();
  server.node().gpu().HoldCopies();
  TestContext context;
  const auto stream = server.stub().Load(&context);
  ASSERT_TRUE(stream->Write(StartRequest("one", server.Spec())));
  server.node().gpu().WaitForCopiesStarted(1);
  stream->Write(StartRequest("one", server.Spec("other")));
  server.node().WaitForIdleReader();  // the first load is cancelled
  server.node().gpu().ReleaseCopies();
  ReadAll(*stream);
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(InfoOf(status).reason(), "BAD_REQUEST");
  EXPECT_EQ(InfoOf(status).metadata().at("field"), "load_id");
}

TEST(LoadStream, ALoadIdMayBeUsedAgainAfterItsEnd) {
  LoaderServer server;
  server.WriteSmall();
  TestContext context;
  const auto stream = server.stub().Load(&context);
  ASSERT_TRUE(stream->Write(StartRequest("one", server.Spec("first"))));
  v1::LoadResponse event;
  while (!event.has_report()) ASSERT_TRUE(stream->Read(&event));
  ASSERT_TRUE(stream->Write(StartRequest("one", server.Spec("second"))));
  stream->WritesDone();
  EXPECT_EQ(EndOf(ReadAll(*stream), "one").report().model(), "second");
  EXPECT_TRUE(stream->Finish().ok());
}

struct BadRequest {
  const char* name;
  v1::LoadRequest request;
  const char* field;
};
void PrintTo(const BadRequest& tested, std::ostream* out) { *out << tested.name; }
class BadLoadRequest : public testing::TestWithParam<BadRequest> {};

TEST_P(BadLoadRequest, EndsTheStream) {
  LoaderServer server;
  TestContext context;
  const auto stream = server.stub().Load(&context);
  ASSERT_TRUE(stream->Write(GetParam().request));
  EXPECT_TRUE(ReadAll(*stream).empty());
  const google::rpc::ErrorInfo info = InfoOf(stream->Finish());
  EXPECT_EQ(info.reason(), "BAD_REQUEST");
  EXPECT_EQ(info.metadata().at("field"), GetParam().field);
}

v1::LoadRequest OnlyId(const std::string& load_id) {
  v1::LoadRequest request;
  request.set_load_id(load_id);
  return request;
}

INSTANTIATE_TEST_SUITE_P(All, BadLoadRequest,
                         testing::Values(BadRequest{"Empty", v1::LoadRequest(), "load_id"},
                                         BadRequest{"NoId", StartRequest("", v1::LoadSpec()), "load_id"},
                                         BadRequest{"LongId", OnlyId(std::string(129, 'x')), "load_id"},
                                         BadRequest{"NoRequest", OnlyId("one"), "request"}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(LoadStream, AnUnsupportedFieldEndsTheLoadAndNotTheStream) {
  LoaderServer server;
  server.WriteSmall();
  v1::LoadSpec sliced = server.Spec();
  sliced.mutable_tensor_parallel()->set_size(2);
  TestContext context;
  const auto stream = server.stub().Load(&context);
  ASSERT_TRUE(stream->Write(StartRequest("sliced", sliced)));
  ASSERT_TRUE(stream->Write(StartRequest("plain", server.Spec())));
  stream->WritesDone();
  const std::vector<v1::LoadResponse> events = ReadAll(*stream);
  EXPECT_EQ(EndOf(events, "sliced").error().reason(), "FIELD_NOT_SUPPORTED");
  EXPECT_EQ(EndOf(events, "plain").report().outcome(), Outcome::OUTCOME_COMPLETE);
  EXPECT_TRUE(stream->Finish().ok());
}

TEST(LoadStream, CancellingAnUnknownLoadIsFine) {
  LoaderServer server;
  TestContext context;
  const auto stream = server.stub().Load(&context);
  ASSERT_TRUE(stream->Write(CancelRequest("unknown")));
  stream->WritesDone();
  EXPECT_TRUE(ReadAll(*stream).empty());
  EXPECT_TRUE(stream->Finish().ok());
}

// The plan is larger than the stream's window, so that nothing behind it leaves the server before it is read.
TEST(LoadStream, AClientThatDoesNotReadCostsOneSlotOfEachKind) {
  LoaderServer server({.load_threads = 2});
  server.WriteSmall();
  v1::LoadSpec spec = server.Spec();
  spec.set_name_limit(10'000);
  for (int i = 0; i < 10'000; ++i) {
    v1::TensorSpec& tensor = *spec.mutable_expected()->mutable_manifest()->add_tensors();
    tensor.set_name(std::string(40, 'x') + "." + std::to_string(i));
    tensor.set_dtype("F32");
  }
  v1::TensorSpec& tensor = *spec.mutable_expected()->mutable_manifest()->add_tensors();
  tensor.set_name("a");
  tensor.set_dtype("F32");
  tensor.add_shape(64);
  server.node().gpu().HoldCopies();
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // or the window grows with what comes
  const auto stub = v1::ModelLoaderService::NewStub(
      grpc::CreateCustomChannel("unix:" + server.socket(), grpc::InsecureChannelCredentials(), arguments));
  TestContext context;
  const auto stream = stub->Load(&context);
  ASSERT_TRUE(stream->Write(StartRequest("one", spec)));
  stream->WritesDone();
  server.node().gpu().WaitForCopiesStarted(1);
  // Another load beside it hears of progress as often as this one.
  const LoaderNode::Started clock = server.node().Start(server.node().Spec("clock"));
  for (int i = 0; i < 4; ++i) clock.observer->WaitForProgress();
  server.node().gpu().ReleaseCopies();
  ASSERT_TRUE(clock.observer->WaitForEnd().ok());
  server.WaitForNoLoad();
  const std::vector<v1::LoadResponse> events = ReadAll(*stream);
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_GE(events.size(), 3);
  EXPECT_LE(events.size(), 4);
  EXPECT_TRUE(events[0].has_accepted());
  EXPECT_EQ(events[1].planned().missing_keys_size(), 10'000);
  EXPECT_EQ(events.back().report().outcome(), Outcome::OUTCOME_INCOMPLETE);
}

}  // namespace
}  // namespace keyload
