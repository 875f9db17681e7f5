// Client::Load and StartLoad over the bidirectional stream.
#include <atomic>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "client/keyload/load_call.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "keyload/client.h"
#include "tests/unit/client/fake_server.h"

namespace keyload {
namespace {

using testing::ElementsAre;

class LoadTest : public testing::Test {
 protected:
  // Reads the start of the load and writes `responses`, echoing its id; then waits for the half-close.
  void Answer(std::vector<v1::LoadResponse> responses) {
    server_.service().load = [responses](auto*, LoadStream* stream) {
      v1::LoadRequest request;
      stream->Read(&request);
      for (v1::LoadResponse response : responses) {
        response.set_load_id(request.load_id());
        stream->Write(response);
      }
      while (stream->Read(&request)) {
      }
      return grpc::Status::OK;
    };
  }

  static v1::LoadResponse Report(v1::LoadReport::Outcome outcome) {
    v1::LoadResponse response;
    response.mutable_report()->set_outcome(outcome);
    return response;
  }

  // Accepts a load, then waits until the client asks to cancel it or goes; answers a cancel with `report`, if there is
  // one.
  void AnswerCancelWith(std::optional<v1::LoadResponse> report) {
    server_.service().load = [this, report](grpc::ServerContext* context, LoadStream* stream) {
      v1::LoadRequest request;
      stream->Read(&request);
      v1::LoadResponse accepted;
      accepted.mutable_accepted()->set_load("loads/1");
      stream->Write(accepted);
      cancel_seen_ = stream->Read(&request) && request.has_cancel();
      if (report) stream->Write(*report);
      while (!report && !context->IsCancelled()) std::this_thread::yield();
      return grpc::Status::OK;
    };
  }

  FakeServer server_;
  std::unique_ptr<Client> client_ = *Client::Connect({.address = server_.address()});
  std::atomic<bool> cancel_seen_ = false;
};

TEST_F(LoadTest, CallsBackInOrderAndReturnsTheReport) {
  v1::LoadResponse accepted, planned, progress;
  accepted.mutable_accepted()->set_load("loads/1");
  planned.mutable_planned()->set_outcome(v1::LoadReport::OUTCOME_PLANNED);
  progress.mutable_progress()->set_phase("transfer");
  Answer({accepted, planned, progress, Report(v1::LoadReport::OUTCOME_COMPLETE)});
  std::vector<std::string> calls;
  auto report = client_->Load({}, {.on_accepted = [&](auto& event) { calls.push_back(event.load()); },
                                   .on_plan = [&](auto&) { calls.push_back("plan"); },
                                   .on_progress = [&](auto& event) { calls.push_back(event.phase()); }});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome(), v1::LoadReport::OUTCOME_COMPLETE);
  EXPECT_THAT(calls, ElementsAre("loads/1", "plan", "transfer"));
}

TEST_F(LoadTest, ReturnsAFailedReportAsAReport) {
  Answer({Report(v1::LoadReport::OUTCOME_FAILED)});
  auto report = client_->Load({});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome(), v1::LoadReport::OUTCOME_FAILED);
}

TEST_F(LoadTest, TurnsALoadErrorIntoAStatusWithItsReason) {
  v1::LoadResponse error;
  error.mutable_error()->set_code(5);
  error.mutable_error()->set_reason("CHECKPOINT_NOT_FOUND");
  Answer({error});
  absl::Status status = client_->Load({}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(GetErrorInfo(status).reason, "CHECKPOINT_NOT_FOUND");
}

TEST_F(LoadTest, ReturnsTheStatusOfAStreamThatBreaks) {
  server_.service().load = [](auto*, auto*) { return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining"); };
  EXPECT_EQ(client_->Load({}).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(LoadTest, IsInternalWhenTheStreamEndsWithoutAnEnd) {
  server_.service().load = [](auto*, auto*) { return grpc::Status::OK; };
  EXPECT_EQ(client_->Load({}).status().code(), absl::StatusCode::kInternal);
}

TEST_F(LoadTest, AStopRequestAsksTheServerToCancelAndReturnsItsReport) {
  AnswerCancelWith(Report(v1::LoadReport::OUTCOME_CANCELLED));
  std::stop_source stop;
  auto report = client_->Load({}, {.on_accepted = [&](auto&) { stop.request_stop(); }}, {.stop = stop.get_token()});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outcome(), v1::LoadReport::OUTCOME_CANCELLED);
  EXPECT_TRUE(cancel_seen_);
}

TEST_F(LoadTest, AStopRequestBreaksTheCallOffWhenTheServerDoesNotAnswerIt) {
  AnswerCancelWith(std::nullopt);
  auto stub =
      v1::ModelLoaderService::NewStub(grpc::CreateChannel(server_.address(), grpc::InsecureChannelCredentials()));
  std::stop_source stop;
  LoadCallbacks callbacks{.on_accepted = [&](auto&) { stop.request_stop(); }, .on_plan = {}, .on_progress = {}};
  CallOptions options{.stop = stop.get_token()};
  client_internal::LoadCall call(*stub, callbacks, options, client_internal::LoadCall::Until::kReport,
                                 absl::Milliseconds(50));
  EXPECT_EQ(call.Run({}).code(), absl::StatusCode::kCancelled);
}

TEST_F(LoadTest, IsCancelledWhenTheStopWasRequestedBefore) {
  AnswerCancelWith(Report(v1::LoadReport::OUTCOME_CANCELLED));
  std::stop_source stop;
  stop.request_stop();
  auto report = client_->Load({}, {}, {.stop = stop.get_token()});
  EXPECT_TRUE(report.ok() ? report->outcome() == v1::LoadReport::OUTCOME_CANCELLED : absl::IsCancelled(report.status()))
      << report.status();
}

TEST_F(LoadTest, ATimeoutEndsTheCall) {
  AnswerCancelWith(std::nullopt);
  EXPECT_EQ(client_->Load({}, {}, {.timeout = absl::Milliseconds(50)}).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST_F(LoadTest, StartLoadReturnsOnceTheLoadIsAccepted) {
  AnswerCancelWith(std::nullopt);
  v1::LoadSpec spec;
  spec.set_detach(true);
  auto accepted = client_->StartLoad(spec);
  ASSERT_TRUE(accepted.ok()) << accepted.status();
  EXPECT_EQ(accepted->load(), "loads/1");
  EXPECT_FALSE(cancel_seen_);
}

TEST_F(LoadTest, StartLoadNeedsADetachedLoad) {
  EXPECT_EQ(client_->StartLoad({}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace keyload
