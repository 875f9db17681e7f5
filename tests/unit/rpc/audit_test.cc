// The audit lines of calls that the command does not make, through a real channel.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "server/base/log.h"
#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

constexpr char kTrace[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

class AuditLines : public testing::Test {
 protected:
  AuditLines() {
    server_.WriteSmall();
    context_.AddMetadata("traceparent", kTrace);
    ConfigureLog(LogFormat::kJson, LogLevel::kInfo);
    testing::internal::CaptureStderr();
  }
  ~AuditLines() override { ConfigureLog(LogFormat::kText, LogLevel::kInfo); }

  // What the audit lines of the log so far say, without time and peer. Every line must name the trace.
  std::vector<std::string> Audited() {
    std::istringstream lines(testing::internal::GetCapturedStderr());
    std::vector<std::string> audited;
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      EXPECT_EQ(json.value("traceparent", ""), kTrace) << line;
      if (json["event"] != "audit") continue;
      std::string said;
      for (const char* name : {"action", "model", "load", "outcome", "code", "reason"}) {
        said += json.contains(name) ? json[name].get<std::string>() + " " : "- ";
      }
      audited.push_back(said);
    }
    return audited;
  }

  LoaderServer server_;
  TestContext context_;
};

TEST_F(AuditLines, LoadModel) {
  v1::LoadModelRequest request;
  *request.mutable_spec() = server_.Spec();
  v1::LoadModelResponse response;
  ASSERT_TRUE(server_.stub().LoadModel(&context_, request, &response).ok());
  EXPECT_THAT(Audited(), testing::ElementsAre("load m load-000001 COMPLETE - - "));
}

TEST_F(AuditLines, ALoadModelThatIsRefused) {
  v1::LoadModelRequest request;
  *request.mutable_spec() = server_.Spec("no name\n");
  v1::LoadModelResponse response;
  EXPECT_FALSE(server_.stub().LoadModel(&context_, request, &response).ok());
  EXPECT_THAT(Audited(), testing::ElementsAre("load no name\n - - INVALID_ARGUMENT BAD_REQUEST "));
}

TEST_F(AuditLines, ALoadThatTheStreamHasNoPlaceFor) {
  const auto stream = server_.stub().Load(&context_);
  server_.node().gpu().HoldCopies();  // so that the first load is still there
  stream->Write(StartRequest("1", server_.Spec()));
  v1::LoadResponse accepted;
  ASSERT_TRUE(stream->Read(&accepted));
  const auto load = *server_.node().service().FindLoad("load-000001");
  stream->Write(StartRequest("1", server_.Spec("other")));
  while (!load->context().stop.stop_requested()) std::this_thread::yield();
  server_.node().gpu().ReleaseCopies();
  ReadAll(*stream);
  EXPECT_FALSE(stream->Finish().ok());
  server_.WaitForNoLoad();
  EXPECT_THAT(Audited(), testing::UnorderedElementsAre("load other - - INVALID_ARGUMENT BAD_REQUEST ",
                                                       testing::StartsWith("load m load-000001 ")));
}

TEST_F(AuditLines, ALoadThatIsCancelledOnItsStream) {
  const auto stream = server_.stub().Load(&context_);
  stream->Write(CancelRequest("unknown"));
  stream->WritesDone();
  ReadAll(*stream);
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(Audited(), testing::ElementsAre("cancel - - OK - - "));
}

TEST_F(AuditLines, CallsThatAreRefusedAtOnce) {
  v1::UnloadModelRequest unload;
  unload.set_model("m");
  unload.set_leased(v1::UnloadModelRequest::LEASED_WAIT);
  v1::UnloadModelResponse unloaded;
  EXPECT_FALSE(server_.stub().UnloadModel(&context_, unload, &unloaded).ok());
  v1::MaterializeRequest materialize;
  materialize.set_request_id("1");
  v1::MaterializeResponse materialized;
  TestContext context;
  context.AddMetadata("traceparent", kTrace);
  EXPECT_FALSE(server_.stub().Materialize(&context, materialize, &materialized).ok());
  EXPECT_THAT(Audited(), testing::ElementsAre("unload m - - UNIMPLEMENTED FIELD_NOT_SUPPORTED ",
                                              "materialize - - - UNIMPLEMENTED FIELD_NOT_SUPPORTED "));
}

}  // namespace
}  // namespace keyload
