#include "keyload/client.h"

#include <latch>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/fake_server.h"

namespace keyload {
namespace {

using testing::SizeIs;

class ClientTest : public testing::Test {
 protected:
  FakeServer server_;
  std::unique_ptr<Client> client_ = *Client::Connect({.address = server_.address()});
};

TEST(ClientConnect, RefusesAnEmptyAddress) {
  EXPECT_EQ(Client::Connect({}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ClientConnect, ReportsAServerThatIsNotThereAtTheFirstCall) {
  auto client = Client::Connect({.address = "unix:no-such-folder/s"});
  ASSERT_TRUE(client.ok());
  absl::Status status = (*client)->ListDevices().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(GetErrorInfo(status).reason, "");
}

TEST_F(ClientTest, ListModelsFollowsThePages) {
  server_.service().list_models = [](auto*, const v1::ListModelsRequest& request, v1::ListModelsResponse* response) {
    response->add_models()->set_name("model-" + request.page_token());
    if (request.page_token().empty()) response->set_next_page_token("2");
    return grpc::Status::OK;
  };
  auto models = client_->ListModels();
  ASSERT_TRUE(models.ok()) << models.status();
  ASSERT_THAT(*models, SizeIs(2));
  EXPECT_EQ((*models)[1].name(), "model-2");
}

TEST_F(ClientTest, SendsTheTraceparentThatCanBeMetadata) {
  std::vector<std::string> got;
  server_.service().list_models = [&](grpc::ServerContext* context, const v1::ListModelsRequest&, auto*) {
    const auto& metadata = context->client_metadata();
    const auto found = metadata.find("traceparent");
    got.push_back(found == metadata.end() ? "" : std::string(found->second.data(), found->second.size()));
    return grpc::Status::OK;
  };
  for (const std::string& text : {std::string("00-1-2-03"), std::string(), std::string("a\nb"), std::string("a b"),
                                  std::string("\xff"), std::string(257, 'x')}) {
    EXPECT_TRUE(client_->ListModels({.traceparent = text}).ok()) << text;
  }
  EXPECT_THAT(got, testing::ElementsAre("00-1-2-03", "", "", "", "", ""));
}

TEST_F(ClientTest, UploadSendsChunksOfOneMebibyteAndTheKindOnce) {
  std::string document(2'500'000, 'x');
  auto uploaded = client_->UploadDocument(v1::UploadDocumentRequest::KIND_MANIFEST, document);
  ASSERT_TRUE(uploaded.ok()) << uploaded.status();
  EXPECT_EQ(uploaded->digest(), "sha256:fake");
  const auto& chunks = server_.service().uploaded;
  ASSERT_THAT(chunks, SizeIs(3));
  EXPECT_THAT(chunks[0].data(), SizeIs(1 << 20));
  EXPECT_THAT(chunks[2].data(), SizeIs(2'500'000 - 2 * (1 << 20)));
  EXPECT_EQ(chunks[0].kind(), v1::UploadDocumentRequest::KIND_MANIFEST);
  EXPECT_EQ(chunks[1].kind(), v1::UploadDocumentRequest::KIND_UNSPECIFIED);
}

TEST_F(ClientTest, AnEmptyDocumentIsOneChunkWithItsKind) {
  ASSERT_TRUE(client_->UploadDocument(v1::UploadDocumentRequest::KIND_KEY_LIST, "").ok());
  ASSERT_THAT(server_.service().uploaded, SizeIs(1));
  EXPECT_EQ(server_.service().uploaded[0].kind(), v1::UploadDocumentRequest::KIND_KEY_LIST);
}

TEST_F(ClientTest, HealthSpeaksTheStandardProtocol) {
  EXPECT_EQ(*client_->Health(), ServingStatus::kServing);
  server_.SetServing(false);
  EXPECT_EQ(*client_->Health(), ServingStatus::kNotServing);
  EXPECT_EQ(*client_->Health("no.such.Service"), ServingStatus::kServiceUnknown);
}

TEST_F(ClientTest, ATimeoutEndsTheCall) {
  server_.service().get_model = [](grpc::ServerContext* context, auto&, auto*) {
    while (!context->IsCancelled()) std::this_thread::yield();
    return grpc::Status::CANCELLED;
  };
  auto model = client_->GetModel("m", {.timeout = absl::Milliseconds(50)});
  EXPECT_EQ(model.status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(ClientTest, AStopRequestEndsTheCall) {
  std::latch arrived(1);
  server_.service().get_model = [&](grpc::ServerContext* context, auto&, auto*) {
    arrived.count_down();
    while (!context->IsCancelled()) std::this_thread::yield();
    return grpc::Status::CANCELLED;
  };
  std::stop_source stop;
  std::jthread stopper([&] {
    arrived.wait();
    stop.request_stop();
  });
  auto model = client_->GetModel("m", {.stop = stop.get_token()});
  EXPECT_EQ(model.status().code(), absl::StatusCode::kCancelled);
}

TEST_F(ClientTest, MaterializeSendsTheSelectionAndReturnsTheReport) {
  server_.service().materialize = [](auto*, const v1::MaterializeRequest& request, v1::MaterializeResponse* response) {
    response->mutable_report()->set_model(request.model() + " " + request.select().include(0));
    return grpc::Status::OK;
  };
  v1::MaterializeRequest request;
  request.set_model("m");
  request.mutable_select()->add_include("layers.0.*");
  auto report = client_->Materialize(request);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->model(), "m layers.0.*");
}

TEST_F(ClientTest, AStopRequestEndsMaterialize) {
  std::stop_source stop;
  server_.service().materialize = [&](grpc::ServerContext* context, auto&, auto*) {
    stop.request_stop();
    while (!context->IsCancelled()) std::this_thread::yield();
    return grpc::Status::CANCELLED;
  };
  EXPECT_EQ(client_->Materialize({}, {.stop = stop.get_token()}).status().code(), absl::StatusCode::kCancelled);
}

TEST_F(ClientTest, EvictReturnsWhatWasFreed) {
  server_.service().evict = [](auto*, const v1::EvictRequest& request, v1::EvictResponse* response) {
    response->set_bytes(request.model() == "m" ? 7 : 0);
    return grpc::Status::OK;
  };
  v1::EvictRequest request;
  request.set_model("m");
  auto evicted = client_->Evict(request);
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  EXPECT_EQ(evicted->bytes(), 7u);
}

TEST_F(ClientTest, AnErrorOfTheChunkCallbackEndsTheCallAndIsReturned) {
  server_.service().list_keys = [](auto*, grpc::ServerWriter<v1::ListKeysResponse>* writer) {
    while (writer->Write(v1::ListKeysResponse())) {
    }
    return grpc::Status::OK;
  };
  int chunks = 0;
  absl::Status status = client_->ListKeys({}, [&](const v1::ListKeysResponse&) {
    return ++chunks == 2 ? absl::ResourceExhaustedError("disk full") : absl::OkStatus();
  });
  EXPECT_EQ(status, absl::ResourceExhaustedError("disk full"));
  EXPECT_EQ(chunks, 2);
}

TEST_F(ClientTest, ALongStatusMessageArrivesWhole) {
  const std::string message(20'000, 'm');
  server_.service().get_model = [&](auto*, auto&, auto*) { return grpc::Status(grpc::StatusCode::NOT_FOUND, message); };
  absl::Status status = client_->GetModel("m").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(status.message()), message);
}

}  // namespace
}  // namespace keyload
