// A client that pings a silent connection is not taken for an attacker.

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

TEST(Keepalive, PingsEveryTenSecondsOnASilentStreamAreTaken) {
  LoaderServer server;
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel =
      grpc::CreateCustomChannel("unix:" + server.socket(), grpc::InsecureChannelCredentials(), arguments);
  const auto stub = v1::ModelLoaderService::NewStub(channel);
  grpc::ClientContext context;
  // By default a server forgives two pings in five minutes and ends the connection at the third.
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(45));
  const auto stream = stub->WatchModels(&context, {});
  v1::WatchModelsResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_TRUE(response.current());
  EXPECT_FALSE(stream->Read(&response)) << "nothing changes";
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << status.error_message();
}

}  // namespace
}  // namespace keyload
