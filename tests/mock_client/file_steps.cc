#include <algorithm>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "keyload/v1/model_loader.pb.h"
#include "tests/mock_client/call_error.h"
#include "tests/mock_client/json_fields.h"
#include "tests/mock_client/made_checkpoint.h"
#include "tests/mock_client/rpc_caller.h"
#include "tests/mock_client/steps.h"

namespace keyload::mock {
namespace {

class MakeCheckpoint final : public Step {
 public:
  MakeCheckpoint(std::string name, uint64_t shards, std::vector<TensorFamily> families)
      : name_(std::move(name)), shards_(shards), families_(std::move(families)) {}

  absl::Status Run(Session& session) override {
    std::vector<NamedTensor> tensors = Expand(families_);
    absl::Status status = WriteCheckpoint(absl::StrCat(session.directory, "/", name_), tensors, shards_);
    session.checkpoints[name_] = std::move(tensors);
    return status;
  }

 private:
  const std::string name_;
  const uint64_t shards_;
  const std::vector<TensorFamily> families_;
};

class Truncate final : public Step {
 public:
  Truncate(std::string file, uint64_t bytes) : file_(std::move(file)), bytes_(bytes) {}

  absl::Status Run(Session& session) override {
    const std::filesystem::path path = absl::StrCat(session.directory, "/", file_);
    std::error_code error;
    const uint64_t size = std::filesystem::file_size(path, error);
    if (!error) std::filesystem::resize_file(path, size - bytes_, error);
    if (!error) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("cannot truncate ", path.string(), ": ", error.message()));
  }

 private:
  const std::string file_;
  const uint64_t bytes_;
};

// Text, followed by a hole up to `size` where that is more.
class MakeFile final : public Step {
 public:
  MakeFile(std::string file, std::string text, uint64_t size)
      : file_(std::move(file)), text_(std::move(text)), size_(size) {}

  absl::Status Run(Session& session) override {
    const std::filesystem::path path = absl::StrCat(session.directory, "/", file_);
    std::error_code error;
    std::filesystem::create_directories(path.parent_path(), error);
    std::ofstream(path, std::ios::binary) << text_;
    if (!error) std::filesystem::resize_file(path, std::max<uint64_t>(size_, text_.size()), error);
    if (!error) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("cannot write ", path.string(), ": ", error.message()));
  }

 private:
  const std::string file_;
  const std::string text_;
  const uint64_t size_;
};

class Link final : public Step {
 public:
  Link(std::string file, std::string target) : file_(std::move(file)), target_(std::move(target)) {}

  absl::Status Run(Session& session) override {
    const std::filesystem::path path = absl::StrCat(session.directory, "/", file_);
    std::error_code error;
    std::filesystem::create_directories(path.parent_path(), error);
    std::filesystem::create_symlink(target_, path, error);
    if (!error) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("cannot link ", path.string(), ": ", error.message()));
  }

 private:
  const std::string file_;
  const std::string target_;
};

// Reads every key of a made checkpoint from the daemon and compares the bytes.
class Read final : public Step {
 public:
  Read(std::string model, std::string checkpoint) : model_(std::move(model)), checkpoint_(std::move(checkpoint)) {}

  absl::Status Run(Session& session) override {
    const auto checkpoint = session.checkpoints.find(checkpoint_);
    if (checkpoint == session.checkpoints.end()) {
      return absl::InvalidArgumentError(absl::StrCat("no step has made the checkpoint ", checkpoint_));
    }
    for (const NamedTensor& tensor : checkpoint->second) {
      if (absl::Status status = Compare(session, tensor); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Compare(const Session& session, const NamedTensor& tensor) const {
    v1::ReadTensorsRequest request;
    request.set_model(model_);
    request.mutable_select()->add_keys(tensor.name);
    const RpcResult result = CallMethod(session.channel, absl::StrCat("/", kServiceName, "/ReadTensors"),
                                        request.SerializeAsString(), absl::Seconds(30));
    if (!result.status.ok()) {
      return absl::FailedPreconditionError(absl::StrCat(tensor.name, ": ", ErrorJson(result.status).dump()));
    }
    std::string received;
    for (const std::string& bytes : result.messages) {
      v1::ReadTensorsResponse response;
      if (!response.ParseFromString(bytes)) return absl::InternalError("a response that does not parse");
      if (received.empty() && response.tensor().key() != tensor.name) {
        return absl::FailedPreconditionError(
            absl::StrCat("asked for ", tensor.name, ", got ", response.tensor().key()));
      }
      if (response.offset() != received.size()) {
        return absl::FailedPreconditionError(absl::StrCat(tensor.name, ": a chunk is missing or out of order"));
      }
      received += response.data();
    }
    if (received == TensorContent(tensor.name, 0, tensor.bytes)) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(tensor.name, ": the ", received.size(),
                                                      " bytes read are not the ", tensor.bytes, " bytes stored"));
  }

  const std::string model_;
  const std::string checkpoint_;
};

}  // namespace

StepOr ParseMakeCheckpoint(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  std::string name = fields.RequiredText("name");
  const uint64_t shards = fields.Count("shards", 1);
  if (shards == 0) fields.Fail("\"shards\" is 0");
  const nlohmann::json* list = fields.Objects("tensors");
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  absl::StatusOr<std::vector<TensorFamily>> families = ParseFamilies(list, where);
  if (!families.ok()) return families.status();
  return std::make_unique<MakeCheckpoint>(std::move(name), shards, *std::move(families));
}

StepOr ParseTruncate(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  std::string file = fields.RequiredText("file");
  const uint64_t bytes = fields.RequiredCount("by");
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  return std::make_unique<Truncate>(std::move(file), bytes);
}

StepOr ParseWriteFile(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  std::string file = fields.RequiredText("file");
  std::string text = fields.Text("text", "");
  const uint64_t size = fields.Count("size", 0);
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  return std::make_unique<MakeFile>(std::move(file), std::move(text), size);
}

StepOr ParseLink(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  std::string file = fields.RequiredText("file");
  std::string target = fields.RequiredText("target");
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  return std::make_unique<Link>(std::move(file), std::move(target));
}

StepOr ParseRead(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  std::string model = fields.RequiredText("model");
  std::string checkpoint = fields.RequiredText("checkpoint");
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  return std::make_unique<Read>(std::move(model), std::move(checkpoint));
}

}  // namespace keyload::mock
