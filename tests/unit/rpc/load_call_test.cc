// GetLoad, ListLoads, WatchLoad, CancelLoad, and loads that outlive or share their streams, through a real channel.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

class LoadCalls : public testing::Test {
 protected:
  LoadCalls() { server_.WriteSmall(); }

  // A load over its own stream, held in its transfer; its name.
  std::string StartHeld(TestContext& context, std::unique_ptr<ClientStream>& stream, const v1::LoadSpec& spec) {
    server_.node().gpu().HoldCopies();
    stream = server_.stub().Load(&context);
    EXPECT_TRUE(stream->Write(StartRequest("1", spec)));
    v1::LoadResponse response;
    EXPECT_TRUE(stream->Read(&response));
    server_.node().gpu().WaitForCopiesStarted(1);
    return response.accepted().load();
  }
  v1::GetLoadResponse Get(const v1::GetLoadRequest& request, grpc::StatusCode code = grpc::StatusCode::OK) {
    TestContext context;
    v1::GetLoadResponse response;
    EXPECT_EQ(server_.stub().GetLoad(&context, request, &response).error_code(), code);
    return response;
  }
  v1::LoadStatus GetByName(const std::string& load) {
    v1::GetLoadRequest request;
    request.set_load(load);
    return Get(request).status();
  }
  std::unique_ptr<grpc::ClientReader<v1::WatchLoadResponse>> OpenWatch(TestContext& context, const std::string& load) {
    v1::WatchLoadRequest request;
    request.set_load(load);
    return server_.stub().WatchLoad(&context, request);
  }
  // Every status of the load up to its end.
  std::vector<v1::LoadStatus> Watch(const std::string& load, grpc::Status& status) {
    TestContext context;
    const auto reader = OpenWatch(context, load);
    std::vector<v1::LoadStatus> statuses;
    v1::WatchLoadResponse response;
    while (reader->Read(&response)) statuses.push_back(response.status());
    status = reader->Finish();
    return statuses;
  }

  LoaderServer server_;
};

TEST_F(LoadCalls, ALoadIsFoundByNameAndByRequestId) {
  v1::LoadSpec spec = server_.Spec();
  spec.set_request_id("mine");
  TestContext context;
  std::unique_ptr<ClientStream> stream;
  const std::string name = StartHeld(context, stream, spec);
  const v1::LoadStatus running = GetByName(name);
  EXPECT_EQ(running.load(), name);
  EXPECT_EQ(running.model(), "m");
  EXPECT_FALSE(running.done());
  EXPECT_FALSE(running.has_report());
  server_.node().gpu().ReleaseCopies();
  stream->WritesDone();
  EXPECT_TRUE(EndOf(ReadAll(*stream), "1").has_report());
  v1::GetLoadRequest by_id;
  by_id.set_request_id("mine");
  const v1::LoadStatus done = Get(by_id).status();
  EXPECT_EQ(done.load(), name);
  EXPECT_TRUE(done.done());
  EXPECT_EQ(done.report().outcome(), v1::LoadReport::OUTCOME_COMPLETE);
}

TEST_F(LoadCalls, WhatIsNoLoadIsAnError) {
  Get({}, grpc::StatusCode::INVALID_ARGUMENT);
  v1::GetLoadRequest request;
  request.set_load("load-000009");
  Get(request, grpc::StatusCode::NOT_FOUND);
  request.set_request_id("none");
  Get(request, grpc::StatusCode::NOT_FOUND);
  grpc::Status status;
  EXPECT_TRUE(Watch("load-000009", status).empty());
  EXPECT_EQ(InfoOf(status).reason(), "LOAD_NOT_FOUND");
  TestContext context;
  v1::CancelLoadRequest cancel;
  cancel.set_load("load-000009");
  v1::CancelLoadResponse response;
  EXPECT_EQ(server_.stub().CancelLoad(&context, cancel, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(LoadCalls, AWatcherSeesTheStateAtOnceAndTheEnd) {
  TestContext load_context;
  std::unique_ptr<ClientStream> stream;
  const std::string name = StartHeld(load_context, stream, server_.Spec());
  TestContext context;
  const auto reader = OpenWatch(context, name);
  v1::WatchLoadResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status().load(), name);
  EXPECT_FALSE(response.status().done());
  server_.node().gpu().ReleaseCopies();
  while (reader->Read(&response)) continue;
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(response.status().done());
  EXPECT_EQ(response.status().report().keys().loaded(), 1);
}

TEST_F(LoadCalls, AnEndedLoadIsWatchedInOneMessage) {
  const std::string name = server_.Load(server_.Spec()).load();
  grpc::Status status;
  const std::vector<v1::LoadStatus> statuses = Watch(name, status);
  EXPECT_TRUE(status.ok());
  ASSERT_FALSE(statuses.empty());
  EXPECT_TRUE(statuses.back().done());
}

TEST_F(LoadCalls, AWatcherThatGoesAwayStopsNothing) {
  TestContext load_context;
  std::unique_ptr<ClientStream> stream;
  const std::string name = StartHeld(load_context, stream, server_.Spec());
  {
    TestContext context;
    const auto reader = OpenWatch(context, name);
    v1::WatchLoadResponse response;
    ASSERT_TRUE(reader->Read(&response));
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  server_.node().gpu().ReleaseCopies();
  stream->WritesDone();
  EXPECT_EQ(EndOf(ReadAll(*stream), "1").report().outcome(), v1::LoadReport::OUTCOME_COMPLETE);
}

TEST_F(LoadCalls, CancelLoadEndsItForEverybody) {
  TestContext context;
  std::unique_ptr<ClientStream> stream;
  v1::LoadSpec spec = server_.Spec();
  spec.set_detach(true);
  const std::string name = StartHeld(context, stream, spec);
  TestContext cancel_context;
  v1::CancelLoadRequest request;
  request.set_load(name);
  v1::CancelLoadResponse response;
  EXPECT_TRUE(server_.stub().CancelLoad(&cancel_context, request, &response).ok());
  server_.node().gpu().ReleaseCopies();
  stream->WritesDone();
  EXPECT_EQ(EndOf(ReadAll(*stream), "1").report().outcome(), v1::LoadReport::OUTCOME_CANCELLED);
  EXPECT_EQ(GetByName(name).report().error().reason(), "LOAD_CANCELLED");
}

TEST_F(LoadCalls, ADetachedLoadOutlivesItsStream) {
  std::string name;
  {
    TestContext context;
    std::unique_ptr<ClientStream> stream;
    v1::LoadSpec spec = server_.Spec();
    spec.set_detach(true);
    name = StartHeld(context, stream, spec);
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  server_.node().gpu().ReleaseCopies();
  server_.WaitForNoLoad();
  grpc::Status status;
  EXPECT_EQ(Watch(name, status).back().report().outcome(), v1::LoadReport::OUTCOME_COMPLETE);
}

TEST_F(LoadCalls, AClientThatReconnectsJoinsItsLoad) {
  v1::LoadSpec spec = server_.Spec();
  spec.set_request_id("mine");
  spec.set_detach(true);
  std::string name;
  {
    TestContext context;
    std::unique_ptr<ClientStream> stream;
    name = StartHeld(context, stream, spec);
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  TestContext context;
  const auto stream = server_.stub().Load(&context);
  stream->Write(StartRequest("again", spec));
  v1::LoadResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.accepted().load(), name);
  EXPECT_TRUE(response.accepted().joined());
  server_.node().gpu().ReleaseCopies();
  stream->WritesDone();
  EXPECT_EQ(EndOf(ReadAll(*stream), "again").report().outcome(), v1::LoadReport::OUTCOME_COMPLETE);
}

TEST_F(LoadCalls, TwoStreamsShareALoadAndOneMayCancel) {
  TestContext first_context;
  std::unique_ptr<ClientStream> first;
  StartHeld(first_context, first, server_.Spec());
  TestContext second_context;
  const auto second = server_.stub().Load(&second_context);
  second->Write(StartRequest("2", server_.Spec()));
  v1::LoadResponse response;
  ASSERT_TRUE(second->Read(&response));
  EXPECT_TRUE(response.accepted().joined());
  first->Write(CancelRequest("1"));
  first->WritesDone();
  EXPECT_EQ(EndOf(ReadAll(*first), "1").error().reason(), "LOAD_CANCELLED");
  server_.node().gpu().ReleaseCopies();
  second->WritesDone();
  EXPECT_EQ(EndOf(ReadAll(*second), "2").report().outcome(), v1::LoadReport::OUTCOME_COMPLETE);
}

TEST_F(LoadCalls, LoadsAreListedPageByPage) {
  for (const char* model : {"a", "b", "c"}) server_.Load(server_.Spec(model));
  v1::ListLoadsRequest request;
  request.set_page_size(2);
  std::vector<std::string> models;
  do {
    TestContext context;
    v1::ListLoadsResponse response;
    ASSERT_TRUE(server_.stub().ListLoads(&context, request, &response).ok());
    EXPECT_LE(response.loads_size(), 2);
    for (const v1::LoadStatus& load : response.loads()) models.push_back(load.model());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_THAT(models, testing::ElementsAre("a", "b", "c"));
  TestContext context;
  request.set_page_size(-1);
  v1::ListLoadsResponse response;
  EXPECT_EQ(server_.stub().ListLoads(&context, request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace keyload
