// Every call but the Load stream, through a real channel.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <ostream>

#include "server/base/digest.h"
#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using Stub = v1::ModelLoaderService::Stub;

struct Method {
  const char* name;
  std::function<grpc::Status(Stub&)> call;
};
void PrintTo(const Method& tested, std::ostream* out) { *out << tested.name; }
class UnsupportedMethod : public testing::TestWithParam<Method> {};

TEST_P(UnsupportedMethod, IsRefusedByName) {
  LoaderServer server;
  const grpc::Status status = GetParam().call(server.stub());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  const google::rpc::ErrorInfo info = InfoOf(status);
  EXPECT_EQ(info.reason(), "METHOD_NOT_SUPPORTED");
  EXPECT_EQ(info.domain(), "keyload");
  EXPECT_EQ(info.metadata().at("method"), GetParam().name);
}

template <typename Request, typename Response>
Method Unary(const char* name, grpc::Status (Stub::*call)(grpc::ClientContext*, const Request&, Response*)) {
  return {name, [call](Stub& stub) {
            TestContext context;
            Response response;
            return (stub.*call)(&context, Request(), &response);
          }};
}

INSTANTIATE_TEST_SUITE_P(All, UnsupportedMethod,
                         testing::Values(Unary("AcquireLease", &Stub::AcquireLease),
                                         Unary("RenewLease", &Stub::RenewLease),
                                         Unary("ReleaseLease", &Stub::ReleaseLease),
                                         Unary("ListLeases", &Stub::ListLeases)),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(LoadModel, AnswersWithTheReport) {
  LoaderServer server;
  server.WriteSmall();
  const v1::LoadReport report = server.Load(server.Spec());
  EXPECT_EQ(report.outcome(), v1::LoadReport::OUTCOME_COMPLETE);
  EXPECT_EQ(report.keys().loaded(), 1);
}

TEST(LoadModel, AFailedLoadIsAStatusThatNamesTheLoad) {
  LoaderServer server({.gpu_bytes = 16});
  server.WriteSmall();
  TestContext context;
  v1::LoadModelRequest request;
  *request.mutable_spec() = server.Spec();
  v1::LoadModelResponse response;
  const grpc::Status status = server.stub().LoadModel(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(InfoOf(status).reason(), "DEVICE_OUT_OF_MEMORY");
  EXPECT_THAT(InfoOf(status).metadata().at("load"), testing::StartsWith("load-"));
}

TEST(LoadModel, ARejectedLoadIsOk) {
  LoaderServer server;
  server.WriteSmall();
  v1::LoadSpec spec = server.Spec();
  v1::TensorSpec& tensor = *spec.mutable_expected()->mutable_manifest()->add_tensors();
  tensor.set_name("absent");
  tensor.set_dtype("F32");
  spec.mutable_limits()->set_max_missing(0);
  EXPECT_EQ(server.Load(spec).outcome(), v1::LoadReport::OUTCOME_REJECTED);
}

TEST(PlanLoad, AnswersWithAPlanAndLoadsNothing) {
  LoaderServer server;
  server.WriteSmall();
  TestContext context;
  v1::PlanLoadRequest request;
  *request.mutable_spec() = server.Spec();
  v1::PlanLoadResponse response;
  ASSERT_TRUE(server.stub().PlanLoad(&context, request, &response).ok());
  EXPECT_EQ(response.report().outcome(), v1::LoadReport::OUTCOME_PLANNED);
  EXPECT_TRUE(server.node().registry().List().empty());
}

grpc::Status Upload(LoaderServer& server, const std::vector<v1::UploadDocumentRequest>& chunks,
                    v1::UploadDocumentResponse& response) {
  TestContext context;
  const auto writer = server.stub().UploadDocument(&context, &response);
  for (const v1::UploadDocumentRequest& chunk : chunks) {
    if (!writer->Write(chunk)) break;
  }
  writer->WritesDone();
  return writer->Finish();
}

v1::UploadDocumentRequest Chunk(v1::UploadDocumentRequest::Kind kind, const std::string& data) {
  v1::UploadDocumentRequest chunk;
  chunk.set_kind(kind);
  chunk.set_data(data);
  return chunk;
}

TEST(UploadDocument, JoinsItsChunks) {
  LoaderServer server;
  v1::UploadDocumentResponse response;
  ASSERT_TRUE(Upload(server,
                     {Chunk(v1::UploadDocumentRequest::KIND_KEY_LIST, "one\ntw"),
                      Chunk(v1::UploadDocumentRequest::KIND_UNSPECIFIED, "o\nthree")},
                     response)
                  .ok());
  EXPECT_EQ(response.digest(), Sha256Digest("one\ntwo\nthree"));
  EXPECT_FALSE(response.known());
  const KeyList& list = **server.node().documents().FindKeyList(response.digest());
  ASSERT_EQ(list.size(), 3u);
  for (const char* name : {"one", "two", "three"}) EXPECT_TRUE(list.Contains(name)) << name;
}

TEST(UploadDocument, NeedsAKindInTheFirstChunk) {
  LoaderServer server;
  v1::UploadDocumentResponse response;
  const grpc::Status status = Upload(
      server,
      {Chunk(v1::UploadDocumentRequest::KIND_UNSPECIFIED, "a"), Chunk(v1::UploadDocumentRequest::KIND_KEY_LIST, "b")},
      response);
  EXPECT_EQ(InfoOf(status).reason(), "BAD_REQUEST");
}

TEST(UploadDocument, RefusesMoreThanTheLimit) {
  LoaderServer server({.max_document_bytes = 8});
  v1::UploadDocumentResponse response;
  const grpc::Status status = Upload(server,
                                     {Chunk(v1::UploadDocumentRequest::KIND_KEY_LIST, "12345"),
                                      Chunk(v1::UploadDocumentRequest::KIND_KEY_LIST, "6789")},
                                     response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(InfoOf(status).reason(), "DOCUMENT_TOO_LARGE");
}

TEST(ListModels, PagesInOrderOfNames) {
  LoaderServer server;
  server.WriteSmall();
  for (const char* name : {"c", "a", "b"}) server.Load(server.Spec(name));
  v1::ListModelsRequest request;
  request.set_page_size(2);
  std::vector<std::string> names;
  std::vector<int> sizes;
  do {
    TestContext context;
    v1::ListModelsResponse response;
    ASSERT_TRUE(server.stub().ListModels(&context, request, &response).ok());
    for (const v1::Model& model : response.models()) names.push_back(model.name());
    sizes.push_back(response.models_size());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_THAT(names, ElementsAre("a", "b", "c"));
  EXPECT_THAT(sizes, ElementsAre(2, 1));
}

TEST(ListModels, LeavesOutDeviceMapsAndCountsThem) {
  LoaderServer server;
  server.WriteSmall();
  server.Load(server.Spec());
  TestContext list_context;
  v1::ListModelsResponse list;
  ASSERT_TRUE(server.stub().ListModels(&list_context, {}, &list).ok());
  EXPECT_EQ(list.models(0).device_map_size(), 0);
  EXPECT_EQ(list.models(0).device_map_left_out(), 1);
  TestContext context;
  v1::GetModelRequest request;
  request.set_model("m");
  v1::GetModelResponse response;
  ASSERT_TRUE(server.stub().GetModel(&context, request, &response).ok());
  EXPECT_EQ(response.model().device_map_size(), 1);
  EXPECT_EQ(response.model().device_map_left_out(), 0);
}

TEST(ListModels, AFullLastPageHasNoToken) {
  LoaderServer server;
  server.WriteSmall();
  server.Load(server.Spec());
  TestContext context;
  v1::ListModelsRequest request;
  request.set_page_size(1);
  v1::ListModelsResponse response;
  ASSERT_TRUE(server.stub().ListModels(&context, request, &response).ok());
  EXPECT_EQ(response.next_page_token(), "");
}

TEST(ListModels, ANegativePageIsRefused) {
  LoaderServer server;
  TestContext context;
  v1::ListModelsRequest request;
  request.set_page_size(-1);
  v1::ListModelsResponse response;
  EXPECT_EQ(InfoOf(server.stub().ListModels(&context, request, &response)).reason(), "BAD_REQUEST");
}

TEST(ListKeys, FiltersByState) {
  LoaderServer server;
  server.WriteSmall();
  v1::LoadSpec spec = server.Spec();
  for (const char* name : {"absent", "a"}) {
    v1::TensorSpec& tensor = *spec.mutable_expected()->mutable_manifest()->add_tensors();
    tensor.set_name(name);
    tensor.set_dtype("F32");
    tensor.add_shape(64);
  }
  server.Load(spec);
  TestContext context;
  v1::ListKeysRequest request;
  request.set_model("m");
  request.add_states(v1::KEY_STATE_MISSING);
  const auto reader = server.stub().ListKeys(&context, request);
  v1::ListKeysResponse response;
  ASSERT_TRUE(reader->Read(&response));
  ASSERT_EQ(response.keys_size(), 1);
  EXPECT_EQ(response.keys(0).key(), "absent");
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
}

struct ReadResult {
  std::map<std::string, std::string> data;  // by key
  size_t largest = 0;
  grpc::Status status;
};

ReadResult ReadTensors(LoaderServer& server, const v1::ReadTensorsRequest& request) {
  TestContext context;
  const auto reader = server.stub().ReadTensors(&context, request);
  ReadResult result;
  std::string key;
  v1::ReadTensorsResponse chunk;
  while (reader->Read(&chunk)) {
    if (chunk.has_tensor()) key = chunk.tensor().key();
    EXPECT_EQ(chunk.offset(), result.data[key].size());
    result.data[key] += chunk.data();
    result.largest = std::max(result.largest, chunk.data().size());
  }
  result.status = reader->Finish();
  return result;
}

TEST(ReadTensors, TheBytesAreThoseOfTheFile) {
  LoaderServer server;
  const uint64_t large = (5 << 20) / 2;  // two and a half chunks
  WriteSafetensors(server.node().dir() + "/model.safetensors",
                   {{.name = "large", .dtype = DType::kU8, .shape = {large}, .data = ""},
                    {.name = "none", .dtype = DType::kU8, .shape = {0}, .data = ""},
                    {.name = "small", .dtype = DType::kU8, .shape = {3}, .data = ""}});
  server.Load(server.Spec());
  v1::ReadTensorsRequest request;
  request.set_model("m");
  const ReadResult result = ReadTensors(server, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.data.size(), 3);
  EXPECT_TRUE(result.data.at("large") == PatternBytes("large", large));
  EXPECT_EQ(result.data.at("small"), PatternBytes("small", 3));
  EXPECT_EQ(result.data.at("none"), "");
  EXPECT_LE(result.largest, 1 << 20);
}

TEST(ReadTensors, AnotherGenerationIsRefused) {
  LoaderServer server;
  server.WriteSmall();
  const uint64_t generation = server.Load(server.Spec()).generation();
  v1::ReadTensorsRequest request;
  request.set_model("m");
  request.set_generation(generation);
  EXPECT_TRUE(ReadTensors(server, request).status.ok());
  request.set_generation(generation + 1);
  EXPECT_EQ(InfoOf(ReadTensors(server, request).status).reason(), "GENERATION_MISMATCH");
}

TEST(ReadTensors, AnUnknownKeyIsRefusedByName) {
  LoaderServer server;
  server.WriteSmall();
  server.Load(server.Spec());
  v1::ReadTensorsRequest request;
  request.set_model("m");
  request.mutable_select()->add_keys("nowhere");
  const ReadResult result = ReadTensors(server, request);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(InfoOf(result.status).reason(), "KEY_NOT_FOUND");
  EXPECT_EQ(InfoOf(result.status).metadata().at("key"), "nowhere");
}

TEST(UnloadModel, FreesTheMemory) {
  LoaderServer server;
  server.WriteSmall();
  server.Load(server.Spec());
  TestContext context;
  v1::UnloadModelRequest request;
  request.set_model("m");
  v1::UnloadModelResponse response;
  ASSERT_TRUE(server.stub().UnloadModel(&context, request, &response).ok());
  EXPECT_TRUE(response.was_loaded());
  EXPECT_EQ(response.freed_bytes(), 256);
  EXPECT_EQ(server.node().gpu().account().state().used, 0);
}

TEST(UnloadModel, LeasesAreNotSupported) {
  for (const int leased : {static_cast<int>(v1::UnloadModelRequest::LEASED_WAIT), -1, 77}) {
    LoaderServer server;
    TestContext context;
    v1::UnloadModelRequest request;
    request.set_leased(static_cast<v1::UnloadModelRequest::Leased>(leased));
    v1::UnloadModelResponse response;
    EXPECT_EQ(InfoOf(server.stub().UnloadModel(&context, request, &response)).reason(), "FIELD_NOT_SUPPORTED");
  }
}

TEST(ListDevices, ShowsWhatIsUsed) {
  LoaderServer server;
  server.WriteSmall();
  server.Load(server.Spec());
  TestContext context;
  v1::ListDevicesResponse response;
  ASSERT_TRUE(server.stub().ListDevices(&context, {}, &response).ok());
  ASSERT_EQ(response.devices_size(), 2);
  EXPECT_EQ(response.devices(1).device(), "cuda:0");
  EXPECT_EQ(response.devices(1).used_bytes(), 256);
  EXPECT_EQ(response.devices(1).free_bytes(), response.devices(1).capacity_bytes() - 256);
}

}  // namespace
}  // namespace keyload
