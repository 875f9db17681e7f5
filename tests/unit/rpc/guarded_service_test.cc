// Every call of the contract asks who makes it.

#include "server/rpc/guarded_service.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "server/access/access_control.h"
#include "server/base/digest.h"
#include "server/base/log.h"
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
    WriteTokens(text);
    tokens_ = *Reloading<Tokens>::Open({token_file_}, [this]() -> absl::StatusOr<Tokens> {
      std::ifstream file(token_file_);
      return Tokens::Parse("f", std::string(std::istreambuf_iterator<char>(file), {}));
    });
    access_ = std::make_unique<AccessControl>(tokens_.get(), Role::kNone);
    server_ = *RpcServer::Start({.listen = {"unix:" + dir_.File("s")}, .access = access_.get(), .rpc = node_.rpc()});
    stub_ = std::make_unique<grpc::GenericStub>(
        grpc::CreateChannel("unix:" + dir_.File("s"), grpc::InsecureChannelCredentials()));
  }

  void WriteTokens(const std::string& text) const { std::ofstream(token_file_) << text; }

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
  const std::string token_file_ = dir_.File("tokens");
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

// The lines that the log has got since CaptureStderr.
std::vector<nlohmann::json> LinesOf(const std::string& event) {
  std::istringstream log(testing::internal::GetCapturedStderr());
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(log, line);) {
    if (auto json = nlohmann::json::parse(line); json["event"] == event) lines.push_back(std::move(json));
  }
  return lines;
}

TEST_F(GuardedServiceTest, ATokenThatIsWithdrawnStartsNoLoadOnItsOpenStream) {
  const auto stub = v1::ModelLoaderService::NewStub(
      grpc::CreateChannel("unix:" + dir_.File("s"), grpc::InsecureChannelCredentials()));
  TestContext context;
  context.AddMetadata("authorization", "Bearer load");
  const auto stream = stub->Load(&context);
  ASSERT_TRUE(stream->Write(StartRequest("before", v1::LoadSpec())));
  v1::LoadResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.error().reason(), "BAD_REQUEST");

  WriteTokens("reader read " + Sha256Digest("read").substr(7));
  while (tokens_->get()->Find("load")) tokens_->Refresh();
  ConfigureLog(LogFormat::kJson, LogLevel::kInfo);
  testing::internal::CaptureStderr();
  ASSERT_TRUE(stream->Write(StartRequest("after", node_.Spec("m"))));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.load_id(), "after");
  EXPECT_EQ(response.error().reason(), "TOKEN_INVALID");
  ASSERT_TRUE(stream->Write(StartRequest("again", node_.Spec("m")))) << "the stream goes on";
  stream->WritesDone();
  EXPECT_EQ(EndOf(ReadAll(*stream), "again").error().reason(), "TOKEN_INVALID");
  EXPECT_TRUE(stream->Finish().ok());
  const std::vector<nlohmann::json> audited = LinesOf("audit");
  ConfigureLog(LogFormat::kText, LogLevel::kInfo);
  ASSERT_EQ(audited.size(), 2);
  EXPECT_EQ(audited[0]["action"], "load");
  EXPECT_EQ(audited[0]["model"], "m");
  EXPECT_EQ(audited[0]["caller"], "token:loader");
  EXPECT_EQ(audited[0]["reason"], "TOKEN_INVALID");
}

TEST_F(GuardedServiceTest, ARefusedCallThatIsLargeIsNotParsedForItsAuditLine) {
  const auto stub = v1::ModelLoaderService::NewStub(
      grpc::CreateChannel("unix:" + dir_.File("s"), grpc::InsecureChannelCredentials()));
  const auto unload = [&](const std::string& model) {
    TestContext context;
    context.AddMetadata("authorization", "Bearer read");
    v1::UnloadModelRequest request;
    request.set_model(model);
    v1::UnloadModelResponse response;
    return stub->UnloadModel(&context, request, &response);
  };
  ConfigureLog(LogFormat::kJson, LogLevel::kInfo);
  testing::internal::CaptureStderr();
  EXPECT_EQ(InfoOf(unload("m")).reason(), "ROLE_INSUFFICIENT");
  EXPECT_EQ(InfoOf(unload(std::string(100'000, 'm'))).reason(), "ROLE_INSUFFICIENT");
  const std::vector<nlohmann::json> audited = LinesOf("audit");
  ConfigureLog(LogFormat::kText, LogLevel::kInfo);
  ASSERT_EQ(audited.size(), 2);
  EXPECT_EQ(audited[0]["model"], "m");
  EXPECT_EQ(audited[1]["action"], "unload");
  EXPECT_LT(audited[1].dump().size(), 1000);
}

TEST_F(GuardedServiceTest, AFloodOfRefusedCallsIsCountedAndNotAllLogged) {
  constexpr int kCalls = 200;
  const MethodDescriptor& unload = *Service().FindMethodByName("UnloadModel");
  ConfigureLog(LogFormat::kJson, LogLevel::kInfo);
  testing::internal::CaptureStderr();
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kCalls; ++i) Call(unload, "guess");
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(std::chrono::steady_clock::now() - begin).count();
  const std::vector<nlohmann::json> audited = LinesOf("audit");
  ConfigureLog(LogFormat::kText, LogLevel::kInfo);
  EXPECT_LE(audited.size(), 20 * (seconds + 1));
  EXPECT_THAT(node_.node().metrics().Text(),
              testing::HasSubstr(StrCat("keyload_authentication_failures_total{reason=\"token_invalid\"} ", kCalls)));
}

}  // namespace
}  // namespace keyload
