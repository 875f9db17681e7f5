#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/client_context.h"
#include "keyload/v1/model_loader.grpc.pb.h"
#include "tests/mock_client/call_error.h"
#include "tests/mock_client/expectation.h"
#include "tests/mock_client/json_fields.h"
#include "tests/mock_client/made_checkpoint.h"
#include "tests/mock_client/steps.h"

namespace keyload::mock {
namespace {

struct UploadOptions {
  std::string name;  // the digest is kept as the variable "digest.NAME"
  std::vector<TensorFamily> families;
  uint64_t chunk_bytes = 0;
  uint64_t at_least_bytes = 0;
  nlohmann::json expect;
};

class UploadManifest final : public Step {
 public:
  explicit UploadManifest(UploadOptions options) : options_(std::move(options)) {}

  absl::Status Run(Session& session) override {
    v1::ModelManifest manifest;
    for (const NamedTensor& tensor : Expand(options_.families)) {
      v1::TensorSpec& spec = *manifest.add_tensors();
      spec.set_name(tensor.name);
      spec.set_kind(v1::TensorSpec::KIND_PARAMETER);
      spec.set_dtype(tensor.dtype);
      spec.mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
    }
    const std::string document = manifest.SerializeAsString();
    if (document.size() < options_.at_least_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("the manifest has only ", document.size(), " bytes"));
    }
    v1::UploadDocumentResponse response;
    const grpc::Status status = Send(session, document, response);
    const nlohmann::json actual =
        status.ok() ? nlohmann::json{{"response", ToJson(response)}} : nlohmann::json{{"error", ErrorJson(status)}};
    nlohmann::json expect = options_.expect;
    if (absl::Status known = Substitute(session, expect); !known.ok()) return known;
    if (status.ok()) session.variables[absl::StrCat("digest.", options_.name)] = response.digest();
    return Match(expect, actual, "UploadDocument");
  }

 private:
  grpc::Status Send(const Session& session, const std::string& document, v1::UploadDocumentResponse& response) const {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    const auto stub = v1::ModelLoaderService::NewStub(session.channel);
    const auto writer = stub->UploadDocument(&context, &response);
    bool open = true;
    for (size_t at = 0; open && at < document.size(); at += options_.chunk_bytes) {
      v1::UploadDocumentRequest chunk;
      if (at == 0) chunk.set_kind(v1::UploadDocumentRequest::KIND_MANIFEST);
      chunk.set_data(document.substr(at, options_.chunk_bytes));
      open = writer->Write(chunk);
    }
    writer->WritesDone();
    return writer->Finish();
  }

  const UploadOptions options_;
};

}  // namespace

StepOr ParseUploadManifest(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  UploadOptions options{.name = fields.RequiredText("name"),
                        .families = {},
                        .chunk_bytes = fields.Count("chunk_bytes", uint64_t{1} << 20),
                        .at_least_bytes = fields.Count("at_least_bytes", 0),
                        .expect = {{"response", nlohmann::json::object()}}};
  if (options.chunk_bytes == 0) fields.Fail("\"chunk_bytes\" is 0");
  const nlohmann::json* list = fields.Objects("tensors");
  if (const nlohmann::json* expect = fields.Object("expect"); expect != nullptr) options.expect = *expect;
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  if (absl::Status status = ValidateExpectation(options.expect, where); !status.ok()) return status;
  absl::StatusOr<std::vector<TensorFamily>> families = ParseFamilies(list, where);
  if (!families.ok()) return families.status();
  options.families = *std::move(families);
  return std::make_unique<UploadManifest>(std::move(options));
}

}  // namespace keyload::mock
