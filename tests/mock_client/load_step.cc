#include <chrono>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/client_context.h"
#include "keyload/v1/model_loader.grpc.pb.h"
#include "tests/mock_client/call_error.h"
#include "tests/mock_client/connection.h"
#include "tests/mock_client/expectation.h"
#include "tests/mock_client/load_rules.h"
#include "tests/mock_client/load_script.h"
#include "tests/mock_client/steps.h"

namespace keyload::mock {
namespace {

absl::Status AwaitState(const Session& session, const std::string& model, v1::ModelState state, absl::Duration within) {
  const auto stub = v1::ModelLoaderService::NewStub(session.channel);
  return Poll(within, [&] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    v1::GetModelRequest request;
    request.set_model(model);
    v1::GetModelResponse response;
    const grpc::Status status = stub->GetModel(&context, request, &response);
    if (status.ok() && response.model().state() == state) return absl::OkStatus();
    return absl::DeadlineExceededError(
        absl::StrCat("while the client did not read, ", model, " did not become ", v1::ModelState_Name(state), ": ",
                     status.ok() ? v1::ModelState_Name(response.model().state()) : ErrorJson(status).dump()));
  });
}

// One Load stream on a connection of its own, played from its start to its end.
class LoadStream {
 public:
  LoadStream(const LoadScript& script, Session& session, CuttableChannel connection)
      : script_(script),
        session_(session),
        connection_(std::move(connection)),
        stub_(v1::ModelLoaderService::NewStub(connection_.channel)) {
    context_.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(script.within));
    stream_ = stub_->Load(&context_);
  }

  ~LoadStream() {
    context_.TryCancel();
    v1::LoadResponse ignored;
    while (stream_->Read(&ignored)) {
    }
    if (!finished_) stream_->Finish();
  }

  absl::Status Play() {
    if (absl::Status status = Start(); !status.ok()) return status;
    v1::LoadResponse response;
    while (!AllEnded()) {
      if (!stream_->Read(&response)) return EarlyEnd();
      if (absl::Status status = Take(response); !status.ok()) return status;
      if (dropped_) return absl::OkStatus();
    }
    stream_->WritesDone();
    if (stream_->Read(&response)) return absl::FailedPreconditionError("an event after the end of every load");
    finished_ = true;
    const grpc::Status status = stream_->Finish();
    if (!status.ok())
      return absl::FailedPreconditionError(absl::StrCat("the stream ended with ", ErrorJson(status).dump()));
    return CheckEnds();
  }

 private:
  absl::Status Start() {
    for (const ScriptedLoad& load : script_.loads) {
      nlohmann::json spec = load.spec;
      if (absl::Status status = Substitute(session_, spec); !status.ok()) return status;
      v1::LoadRequest request;
      request.set_load_id(load.id);
      if (absl::Status status = ParseMessage(spec, load.id, *request.mutable_start()); !status.ok()) return status;
      session_.models.insert(request.start().model());
      rules_[load.id];
      if (!stream_->Write(request)) return EarlyEnd();
    }
    return absl::OkStatus();
  }

  absl::Status Take(const v1::LoadResponse& response) {
    const auto rules = rules_.find(response.load_id());
    if (rules == rules_.end()) {
      return absl::FailedPreconditionError(absl::StrCat("an event of the unknown load \"", response.load_id(), "\""));
    }
    if (absl::Status status = rules->second.Take(response); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat(response.load_id(), ": ", status.message()));
    }
    for (const ScriptedLoad& load : script_.loads) {
      if (load.cancel_on.has_value() && load.cancel_on->Fires(response)) Cancel(load.id);
    }
    if (script_.pause_on.has_value() && script_.pause_on->Fires(response) && !std::exchange(paused_, true)) {
      return AwaitState(session_, script_.pause_until_model, script_.pause_until_state, script_.within);
    }
    if (script_.drop_on.has_value() && script_.drop_on->Fires(response)) Drop();
    return absl::OkStatus();
  }

  void Cancel(const std::string& id) {
    if (std::exchange(cancelled_[id], true)) return;
    v1::LoadRequest request;
    request.set_load_id(id);
    request.mutable_cancel();
    stream_->Write(request);
  }

  void Drop() {
    if (script_.drop_by_socket) {
      Cut(connection_);
    } else {
      context_.TryCancel();
    }
    dropped_ = true;
  }

  bool AllEnded() const {
    for (const auto& [id, rules] : rules_) {
      if (!rules.ended()) return false;
    }
    return true;
  }

  absl::Status EarlyEnd() {
    finished_ = true;
    return absl::FailedPreconditionError(
        absl::StrCat("the stream ended before its loads, with ", ErrorJson(stream_->Finish()).dump()));
  }

  absl::Status CheckEnds() const {
    if (script_.drop_on.has_value()) return absl::FailedPreconditionError("every load ended before the drop");
    if (script_.pause_on.has_value() && !paused_) {
      return absl::FailedPreconditionError("every load ended before the client stopped reading");
    }
    for (const ScriptedLoad& load : script_.loads) {
      nlohmann::json expect = load.expect;
      if (absl::Status status = Substitute(session_, expect); !status.ok()) return status;
      if (absl::Status status = Match(expect, rules_.at(load.id).received(), load.id); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  const LoadScript& script_;
  Session& session_;
  const CuttableChannel connection_;
  const std::unique_ptr<v1::ModelLoaderService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::LoadRequest, v1::LoadResponse>> stream_;
  std::map<std::string, LoadRules> rules_;
  std::map<std::string, bool> cancelled_;
  bool paused_ = false;
  bool dropped_ = false;
  bool finished_ = false;
};

class Load final : public Step {
 public:
  explicit Load(LoadScript script) : script_(std::move(script)) {}

  absl::Status Run(Session& session) override {
    absl::StatusOr<CuttableChannel> connection = ConnectCuttable(session.server);
    if (!connection.ok()) return connection.status();
    if (script_.drop_by_socket && !connection->socket) {
      return absl::UnimplementedError("a connection over TLS cannot be cut from here");
    }
    return LoadStream(script_, session, *std::move(connection)).Play();
  }

 private:
  const LoadScript script_;
};

}  // namespace

StepOr ParseLoad(const nlohmann::json& json, const std::string& where) {
  LoadScript script;
  if (absl::Status status = ParseLoadScript(json, where, script); !status.ok()) return status;
  return std::make_unique<Load>(std::move(script));
}

}  // namespace keyload::mock
