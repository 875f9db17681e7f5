// Requests that are no messages, and fields that the server does not know.

#include "server/rpc/strict_request.h"

#include <gmock/gmock.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <string>

#include "server/base/error.h"
#include "server/rpc/convert_manifest.h"
#include "server/rpc/parsed_bytes.h"
#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

// Adds a number under `field` that no version of the contract has.
void AddUnknown(google::protobuf::Message& message, int field = 1000) {
  message.GetReflection()->MutableUnknownFields(&message)->AddVarint(field, 1);
}

TEST(CheckKnownFields, AFieldOfTheRequestItselfIsNamed) {
  v1::LoadModelRequest request;
  AddUnknown(request);
  const absl::Status status = CheckKnownFields(request);
  EXPECT_EQ(ErrorReason(status), Reason::kFieldNotSupported);
  EXPECT_EQ(ErrorDetails(status)["number"], "1000");
  EXPECT_EQ(ErrorDetails(status)["message"], "keyload.v1.LoadModelRequest");
}

TEST(CheckKnownFields, AFieldOfARepeatedMessageWithinAMessageIsNamed) {
  v1::LoadModelRequest request;
  v1::ModelManifest& manifest = *request.mutable_spec()->mutable_expected()->mutable_manifest();
  manifest.add_tensors();
  AddUnknown(*manifest.add_tensors(), 77);
  manifest.add_tensors();
  const absl::Status status = CheckKnownFields(request);
  EXPECT_EQ(ErrorReason(status), Reason::kFieldNotSupported);
  EXPECT_EQ(ErrorDetails(status)["number"], "77");
  EXPECT_EQ(ErrorDetails(status)["message"], "keyload.v1.TensorSpec");
}

TEST(CheckKnownFields, ARequestOfKnownFieldsPasses) {
  v1::LoadModelRequest request;
  request.mutable_spec()->mutable_select()->add_include("*");
  (*request.mutable_spec()->mutable_device_map()->mutable_entries())[""] = "cpu";
  request.mutable_spec()->mutable_expected()->mutable_manifest()->add_tensors()->set_name("a");
  EXPECT_TRUE(CheckKnownFields(request).ok());
}

grpc::ByteBuffer BytesOf(const google::protobuf::Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return {&slice, 1};
}

v1::PlanLoadRequest RequestOfKeys(int count) {
  v1::PlanLoadRequest request;
  for (int i = 0; i < count; ++i) request.mutable_spec()->mutable_select()->add_keys("k");
  return request;
}

TEST(ParseRequest, ALargeRequestIsCountedAsLongAsItIsUsed) {
  const auto account = std::make_shared<HeapAccount>(64 << 20);
  grpc::ByteBuffer bytes = BytesOf(RequestOfKeys(10'000));
  absl::StatusOr<RequestPtr<v1::PlanLoadRequest>> request = ParseRequest<v1::PlanLoadRequest>(bytes, account);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ((*request)->spec().select().keys_size(), 10'000);
  EXPECT_GT(account->used_bytes(), 10'000 * sizeof(std::string));
  EXPECT_EQ(bytes.Length(), 0u);
  request->reset();
  EXPECT_EQ(account->used_bytes(), 0u);
}

TEST(ParseRequest, ALargeRequestThatHasNoRoomIsRefusedBeforeItIsParsed) {
  const auto account = std::make_shared<HeapAccount>(1 << 20);
  grpc::ByteBuffer bytes = BytesOf(RequestOfKeys(10'000));
  EXPECT_EQ(ErrorReason(ParseRequest<v1::PlanLoadRequest>(bytes, account).status()), Reason::kMemoryExhausted);
}

TEST(ParseRequest, ASmallRequestIsParsedWhileLargeOnesUseEverythingUp) {
  const auto account = std::make_shared<HeapAccount>(1 << 20);
  HeapCharge all(account);
  ASSERT_TRUE(all.Resize(1 << 20, "all").ok());
  grpc::ByteBuffer bytes = BytesOf(RequestOfKeys(10));
  EXPECT_TRUE(ParseRequest<v1::PlanLoadRequest>(bytes, account).ok());
}

TEST(ParseRequest, BytesThatAreNoMessageAreABadRequest) {
  const grpc::Slice slice("\x0a\x80");
  grpc::ByteBuffer bytes(&slice, 1);
  const auto account = std::make_shared<HeapAccount>(1 << 20);
  EXPECT_EQ(ErrorReason(ParseRequest<v1::PlanLoadRequest>(bytes, account).status()), Reason::kBadRequest);
}

TEST(CheckKnownFields, AManifestWithAnUnknownFieldIsRefused) {
  v1::ModelManifest manifest;
  manifest.add_tensors()->set_name("a");
  AddUnknown(manifest);
  EXPECT_EQ(ErrorReason(ParseManifest(manifest.SerializeAsString()).status()), Reason::kFieldNotSupported);
}

TEST(StrictRequests, AUnaryCallWithAnUnknownFieldIsRefused) {
  LoaderServer server;
  TestContext context;
  v1::GetModelRequest request;
  AddUnknown(request);
  v1::GetModelResponse response;
  const grpc::Status status = server.stub().GetModel(&context, request, &response);
  EXPECT_EQ(InfoOf(status).reason(), "FIELD_NOT_SUPPORTED");
}

TEST(StrictRequests, AResponseStreamWithAnUnknownFieldIsRefused) {
  LoaderServer server;
  TestContext context;
  v1::ListKeysRequest request;
  AddUnknown(*request.mutable_select());
  EXPECT_EQ(InfoOf(server.stub().ListKeys(&context, request)->Finish()).reason(), "FIELD_NOT_SUPPORTED");
}

TEST(StrictRequests, ALoadStreamEndsAtAnUnknownField) {
  LoaderServer server;
  TestContext context;
  const auto stream = server.stub().Load(&context);
  v1::LoadRequest request = StartRequest("one", server.Spec());
  AddUnknown(*request.mutable_start());
  stream->Write(request);
  EXPECT_THAT(ReadAll(*stream), testing::IsEmpty());
  EXPECT_EQ(InfoOf(stream->Finish()).reason(), "FIELD_NOT_SUPPORTED");
}

TEST(StrictRequests, AnUploadWithAnUnknownFieldIsRefused) {
  LoaderServer server;
  TestContext context;
  v1::UploadDocumentResponse response;
  const auto writer = server.stub().UploadDocument(&context, &response);
  v1::UploadDocumentRequest chunk;
  chunk.set_kind(v1::UploadDocumentRequest::KIND_KEY_LIST);
  AddUnknown(chunk);
  writer->Write(chunk);
  EXPECT_EQ(InfoOf(writer->Finish()).reason(), "FIELD_NOT_SUPPORTED");
}

// What the server says of two bytes that are no message.
grpc::Status SendBroken(LoaderServer& server, const std::string& method) {
  const auto stub = std::make_unique<grpc::GenericStub>(server.channel());
  TestContext context;
  grpc::CompletionQueue queue;
  const auto next = [&] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call = stub->PrepareCall(&context, "/keyload.v1.ModelLoaderService/" + method, &queue);
  call->StartCall(nullptr);
  next();
  const grpc::Slice broken("\x0a\xfe");
  call->WriteLast(grpc::ByteBuffer(&broken, 1), grpc::WriteOptions(), nullptr);
  next();
  grpc::ByteBuffer message;
  call->Read(&message, nullptr);
  next();
  grpc::Status status;
  call->Finish(&status, nullptr);
  next();
  queue.Shutdown();
  return status;
}

TEST(StrictRequests, BytesThatAreNoMessageAreABadRequestOfEveryCall) {
  LoaderServer server;
  const google::protobuf::ServiceDescriptor& service = *v1::LoadRequest::descriptor()->file()->service(0);
  for (int i = 0; i < service.method_count(); ++i) {
    const grpc::Status status = SendBroken(server, service.method(i)->name());
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << service.method(i)->name();
    EXPECT_EQ(InfoOf(status).reason(), "BAD_REQUEST") << service.method(i)->name();
  }
}

TEST(ParsedBytes, IsAtLeastWhatTheMessageTakes) {
  v1::ModelManifest manifest;
  for (int i = 0; i < 1000; ++i) {
    v1::TensorSpec& tensor = *manifest.add_tensors();
    if (i % 2 == 0) continue;  // two bytes in all
    tensor.set_name(std::string(static_cast<size_t>(i % 40), 'n'));
    for (int d = 0; d < i % 9; ++d) tensor.add_shape(1);
    manifest.add_tied_groups()->add_targets("");
    manifest.add_conversions()->add_operations()->add_dims(1);
  }
  const uint64_t bytes = ParsedBytes(manifest.SerializeAsString(), *manifest.GetDescriptor());
  EXPECT_GE(bytes, manifest.SpaceUsedLong());
  EXPECT_LT(bytes, 4 * manifest.SpaceUsedLong());
}

TEST(ParsedBytes, GroupsCountAsTheFieldsThatProtobufMakesOfThem) {
  std::string wire;
  for (int i = 0; i < 1000; ++i) wire += "\x7b\x7c";  // group 15, empty
  v1::ModelManifest manifest;
  ASSERT_TRUE(manifest.ParseFromString(wire));
  EXPECT_GE(ParsedBytes(wire, *manifest.GetDescriptor()), manifest.SpaceUsedLong());
}

TEST(ParseRequest, OneRequestMayHaveHalfOfTheMemory) {
  const auto account = std::make_shared<HeapAccount>(4 << 20);
  grpc::ByteBuffer bytes = BytesOf(RequestOfKeys(10'000));
  const absl::Status status = ParseRequest<v1::PlanLoadRequest>(bytes, account).status();
  EXPECT_EQ(ErrorReason(status), Reason::kMemoryExhausted);
  EXPECT_EQ(ErrorDetails(status)["limit_bytes"], std::to_string(2 << 20));
}

TEST(ParsedBytes, BytesThatAreNoMessageCountUpToWhereTheyBreak) {
  EXPECT_LT(ParsedBytes("\x0a\xfe", *v1::ModelManifest::descriptor()), 4096);
  EXPECT_LT(ParsedBytes("\xff\xff\xff\xff\xff", *v1::ModelManifest::descriptor()), 4096);
}

}  // namespace
}  // namespace keyload
