#include "server/rpc/call_metrics.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <future>
#include <string>
#include <thread>

#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

using testing::HasSubstr;

bool Shows(LoaderServer& server, const std::string& line) {
  return server.node().metrics().Text().find("\n" + line + "\n") != std::string::npos;
}

TEST(CallMetrics, TheNamesAreThoseOfTheContract) {
  EXPECT_THAT(RpcMethodNames(), testing::IsSupersetOf({"Load", "GetServerInfo", "AcquireLease"}));
}

TEST(CallMetrics, ACallIsCountedWithItsCodeBeforeItsClientHasIt) {
  LoaderServer server;
  for (int i = 0; i < 3; ++i) {
    TestContext context;
    v1::GetModelRequest request;
    request.set_model("nobody");
    v1::GetModelResponse response;
    EXPECT_EQ(server.stub().GetModel(&context, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_TRUE(Shows(
        server, "keyload_grpc_server_calls_total{code=\"NOT_FOUND\",method=\"GetModel\"} " + std::to_string(i + 1)));
  }
  EXPECT_TRUE(Shows(server, "keyload_grpc_server_calls_started_total{method=\"GetModel\"} 3"));
  EXPECT_TRUE(Shows(server, "keyload_grpc_server_call_duration_seconds_count{method=\"GetModel\"} 3"));
  EXPECT_TRUE(Shows(server, "keyload_open_calls 0"));
}

TEST(CallMetrics, AStreamThatItsClientDropsIsCancelled) {
  LoaderServer server;
  {
    TestContext context;
    v1::WatchModelsRequest request;
    const auto stream = server.stub().WatchModels(&context, request);
    v1::WatchModelsResponse response;
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_TRUE(Shows(server, "keyload_open_calls 1"));
    context.TryCancel();
    stream->Finish();
  }
  while (!Shows(server, "keyload_open_calls 0")) std::this_thread::yield();
  EXPECT_TRUE(Shows(server, "keyload_grpc_server_calls_total{code=\"CANCELLED\",method=\"WatchModels\"} 1"));
}

TEST(CallMetrics, AMethodThatNobodyRegisteredHasNoSeriesOfItsOwn) {
  LoaderServer server;
  grpc::GenericStub stub(server.channel());
  TestContext context;
  const grpc::Slice bytes("");
  const grpc::ByteBuffer request(&bytes, 1);
  grpc::ByteBuffer response;
  std::promise<grpc::Status> ended;
  stub.UnaryCall(&context, "/keyload.v1.ModelLoaderService/Telltale", {}, &request, &response,
                 [&](grpc::Status status) { ended.set_value(std::move(status)); });
  EXPECT_EQ(ended.get_future().get().error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(server.node().metrics().Text(), testing::Not(HasSubstr("Telltale")));
}

}  // namespace
}  // namespace keyload
