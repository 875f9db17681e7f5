// Errors about very much, over a real socket: gRPC breaks every stream of a connection when one status is too long.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

constexpr int kMissing = 100'000;
constexpr size_t kMostBytes = 4096;

class ErrorSize : public testing::Test {
 protected:
  ErrorSize() : server_({.load_threads = 2, .max_document_bytes = 16ull << 20, .request_memory = 512ull << 20}) {
    server_.WriteSmall();
    std::string manifest;
    for (int i = 0; i < kMissing; ++i)
      absl::StrAppend(&manifest, "model.layers.", i, ".mlp.experts.gate_proj.weight\n");
    digest_ = Upload(v1::UploadDocumentRequest::KIND_MANIFEST, manifest);
    // A load that is held, on a stream of the same connection.
    server_.node().gpu().HoldCopies();
    neighbour_ = server_.stub().Load(&neighbour_context_);
    EXPECT_TRUE(neighbour_->Write(StartRequest("neighbour", server_.Spec("neighbour"))));
    neighbour_->WritesDone();
    server_.node().gpu().WaitForCopiesStarted(1);
  }
  ~ErrorSize() override {
    server_.node().gpu().ReleaseCopies();
    const std::vector<v1::LoadResponse> events = ReadAll(*neighbour_);
    EXPECT_EQ(EndOf(events, "neighbour").report().outcome(), v1::LoadReport::OUTCOME_COMPLETE);
    const grpc::Status end = neighbour_->Finish();
    EXPECT_TRUE(end.ok()) << end.error_message();
  }

  std::string Upload(v1::UploadDocumentRequest::Kind kind, const std::string& document) {
    TestContext context;
    v1::UploadDocumentResponse response;
    const auto writer = server_.stub().UploadDocument(&context, &response);
    constexpr size_t kChunk = 1 << 20;
    for (size_t at = 0; at < document.size(); at += kChunk) {
      v1::UploadDocumentRequest chunk;
      chunk.set_kind(kind);
      chunk.set_data(document.substr(at, kChunk));
      EXPECT_TRUE(writer->Write(chunk));
    }
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.digest();
  }
  v1::LoadSpec ManyMissing() {
    v1::LoadSpec spec = server_.Spec("many");
    spec.mutable_expected()->set_manifest_digest(digest_);
    return spec;
  }
  grpc::Status LoadModel(const v1::LoadSpec& spec, v1::LoadModelResponse& response) {
    TestContext context;
    v1::LoadModelRequest request;
    *request.mutable_spec() = spec;
    return server_.stub().LoadModel(&context, request, &response);
  }
  static void ExpectSmall(const grpc::Status& status, grpc::StatusCode code, const std::string& reason) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(InfoOf(status).reason(), reason);
    EXPECT_LT(status.error_message().size() + status.error_details().size(), kMostBytes);
  }

  LoaderServer server_;
  std::string digest_;
  TestContext neighbour_context_;
  std::unique_ptr<ClientStream> neighbour_;
};

TEST_F(ErrorSize, ManyMissingKeysWithoutADevice) {
  v1::LoadSpec spec = ManyMissing();
  spec.mutable_device_map()->clear_policy();
  (*spec.mutable_device_map()->mutable_entries())["elsewhere"] = "cuda:0";
  v1::LoadModelResponse response;
  const grpc::Status status = LoadModel(spec, response);
  ExpectSmall(status, grpc::StatusCode::INVALID_ARGUMENT, "DEVICE_MAP_INCOMPLETE");
  EXPECT_EQ(InfoOf(status).metadata().at("count"), absl::StrCat(kMissing));
}

TEST_F(ErrorSize, TheSameInAStream) {
  v1::LoadSpec spec = ManyMissing();
  spec.mutable_device_map()->clear_policy();
  (*spec.mutable_device_map()->mutable_entries())["elsewhere"] = "cuda:0";
  TestContext context;
  const auto stream = server_.stub().Load(&context);
  ASSERT_TRUE(stream->Write(StartRequest("many", spec)));
  stream->WritesDone();
  const v1::LoadResponse end = EndOf(ReadAll(*stream), "many");
  EXPECT_EQ(end.error().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(end.error().reason(), "DEVICE_MAP_INCOMPLETE");
  EXPECT_LT(end.error().ByteSizeLong(), kMostBytes);
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ErrorSize, AStrictLoadOfManyMissingKeysIsAReport) {
  v1::LoadSpec spec = ManyMissing();
  spec.mutable_limits()->set_max_missing(0);
  v1::LoadModelResponse response;
  const grpc::Status status = LoadModel(spec, response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.report().outcome(), v1::LoadReport::OUTCOME_REJECTED);
  EXPECT_EQ(response.report().keys().missing(), kMissing);
  EXPECT_EQ(response.report().missing_keys_size(), 100);
}

TEST_F(ErrorSize, NamesOfTheRequestAreCut) {
  const std::string big(1 << 20, 'n');
  v1::LoadModelResponse response;
  v1::LoadSpec spec = server_.Spec(big);
  ExpectSmall(LoadModel(spec, response), grpc::StatusCode::INVALID_ARGUMENT, "BAD_REQUEST");
  spec = server_.Spec("many");
  spec.mutable_source()->set_path("/" + big);
  ExpectSmall(LoadModel(spec, response), grpc::StatusCode::INVALID_ARGUMENT, "BAD_REQUEST");
  spec = server_.Spec("many");
  spec.mutable_select()->add_include("[" + big + "\\");
  for (int i = 0; i < kMissing; ++i) spec.mutable_rules()->add_ignore_missing("(");
  ExpectSmall(LoadModel(spec, response), grpc::StatusCode::INVALID_ARGUMENT, "PATTERN_INVALID");
}

TEST_F(ErrorSize, ManyUnknownNamesOfASelection) {
  server_.node().gpu().ReleaseCopies();
  server_.Load(server_.Spec("loaded"));
  v1::ReadTensorsRequest request;
  request.set_model("loaded");
  for (int i = 0; i < kMissing; ++i) request.mutable_select()->add_keys(absl::StrCat("no.such.key.", i));
  TestContext context;
  const auto reader = server_.stub().ReadTensors(&context, request);
  v1::ReadTensorsResponse chunk;
  EXPECT_FALSE(reader->Read(&chunk));
  ExpectSmall(reader->Finish(), grpc::StatusCode::NOT_FOUND, "KEY_NOT_FOUND");
}

}  // namespace
}  // namespace keyload
