// Every call of the contract asks who makes it.

#include "server/rpc/guarded_service.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <map>

#include "server/access/access_control.h"
#include "server/base/digest.h"
#include "server/base/strings.h"
#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

using google::protobuf::MethodDescriptor;

// A server that takes a token on its socket too.
class GuardedServiceTest : public testing::Test {
 protected:
  GuardedServiceTest() {
    std::string text;
    for (const char* const role : {"read", "load", "admin"}) {
      StrAppend(&text, role, "er ", role, " ", Sha256Digest(role).substr(7), "\n");
    }
    tokens_ = *Reloading<Tokens>::Open({"unused"}, [text] { return Tokens::Parse("f", text); });
    access_ = std::make_unique<AccessControl>(tokens_.get(), Role::kNone);
    server_ = *RpcServer::Start({.listen = {"unix:" + dir_.File("s")}, .access = access_.get(), .rpc = node_.rpc()});
    stub_ = std::make_unique<grpc::GenericStub>(
        grpc::CreateChannel("unix:" + dir_.File("s"), grpc::InsecureChannelCredentials()));
  }

  // The answer to an empty request, or to a stream that ends without one.
  grpc::Status Call(const MethodDescriptor& method, const std::string& token) {
    TestContext context;
    if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
    grpc::CompletionQueue queue;
    const auto next = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    const auto call =
        stub_->PrepareCall(&context, StrCat("/", method.service()->full_name(), "/", method.name()), &queue);
    call->StartCall(nullptr);
    next();
    if (method.client_streaming()) {
      call->WritesDone(nullptr);
    } else {
      const grpc::Slice nothing;
      call->WriteLast(grpc::ByteBuffer(&nothing, 1), grpc::WriteOptions(), nullptr);
    }
    next();
    grpc::ByteBuffer message;
    call->Read(&message, nullptr);
    if (next()) context.TryCancel();  // it is let in, and may go on for ever
    grpc::Status status;
    call->Finish(&status, nullptr);
    next();
    queue.Shutdown();
    return status;
  }

  LoaderServer node_;
  TempDir dir_;
  std::unique_ptr<Reloading<Tokens>> tokens_;
  std::unique_ptr<AccessControl> access_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<grpc::GenericStub> stub_;
};

const google::protobuf::ServiceDescriptor& Service() { return *v1::LoadRequest::descriptor()->file()->service(0); }

TEST_F(GuardedServiceTest, EveryCallWithoutATokenIsRefused) {
  ASSERT_GT(Service().method_count(), 20);
  for (int i = 0; i < Service().method_count(); ++i) {
    const MethodDescriptor& method = *Service().method(i);
    const grpc::Status status = Call(method, "");
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << method.name();
    EXPECT_EQ(InfoOf(status).reason(), "TOKEN_MISSING") << method.name();
    EXPECT_EQ(InfoOf(Call(method, "guess")).reason(), "TOKEN_INVALID") << method.name();
  }
}

// What docs/security.md says. A method that is new has to be put here and there.
TEST_F(GuardedServiceTest, EveryCallTakesItsRole) {
  const std::map<std::string, int> needs = {
      {"Load", 1},          {"LoadModel", 1},      {"PlanLoad", 0},        {"GetLoad", 0},     {"ListLoads", 0},
      {"WatchLoad", 0},     {"CancelLoad", 1},     {"GetModel", 0},        {"ListModels", 0},  {"WatchModels", 0},
      {"ListKeys", 0},      {"ReadTensors", 1},    {"Materialize", 1},     {"Evict", 1},       {"UnloadModel", 1},
      {"AcquireLease", 1},  {"RenewLease", 1},     {"ReleaseLease", 1},    {"ListLeases", 0},  {"SetDeviceMap", 2},
      {"GetDeviceMap", 0},  {"ListDeviceMaps", 0}, {"DeleteDeviceMap", 2}, {"ListDevices", 0}, {"GetServerInfo", 0},
      {"UploadDocument", 1}};
  ASSERT_EQ(needs.size(), static_cast<size_t>(Service().method_count()));
  const std::string tokens[] = {"read", "load", "admin"};
  for (int i = 0; i < Service().method_count(); ++i) {
    const MethodDescriptor& method = *Service().method(i);
    for (int has = 0; has < 3; ++has) {
      const bool refused = Call(method, tokens[has]).error_code() == grpc::StatusCode::PERMISSION_DENIED;
      EXPECT_EQ(refused, has < needs.at(method.name())) << method.name() << " with " << tokens[has];
    }
  }
}

}  // namespace
}  // namespace keyload
