#include "tests/mock_client/scenario.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "keyload/v1/model_loader.pb.h"
#include "tests/mock_client/call_error.h"
#include "tests/mock_client/json_fields.h"
#include "tests/mock_client/rpc_caller.h"
#include "tests/mock_client/steps.h"

namespace keyload::mock {
namespace {

absl::Status RunSteps(const Scenario& scenario, Session& session) {
  for (size_t i = 0; i < scenario.steps.size(); ++i) {
    if (absl::Status status = scenario.steps[i]->Run(session); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat("step ", i + 1, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

// A load that ends in these moments keeps its name busy.
absl::Status UnloadModel(const Session& session, const std::string& model) {
  v1::UnloadModelRequest request;
  request.set_model(model);
  return Poll(absl::Seconds(10), [&] {
    const RpcResult result = CallMethod(session.channel, absl::StrCat("/", kServiceName, "/UnloadModel"),
                                        request.SerializeAsString(), absl::Seconds(30));
    const bool impossible_name = result.status.error_code() == grpc::StatusCode::INVALID_ARGUMENT;
    if (result.status.ok() || impossible_name) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("unloading ", model, ": ", ErrorJson(result.status).dump()));
  });
}

absl::Status UnloadModels(const Session& session) {
  absl::Status first;
  for (const std::string& model : session.models) {
    first.Update(UnloadModel(session, model));
  }
  return first;
}

}  // namespace

absl::StatusOr<Scenario> ReadScenario(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read the scenario ", path));
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, false);
  if (json.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(path, ": not JSON"));
  Fields fields(json, path);
  Scenario scenario{
      .name = std::filesystem::path(path).stem().string(), .about = fields.RequiredText("about"), .steps = {}};
  const nlohmann::json* steps = fields.Objects("steps");
  if (steps == nullptr || steps->empty()) fields.Fail("needs \"steps\"");
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  for (const nlohmann::json& step : *steps) {
    StepOr parsed = ParseStep(step, absl::StrCat(path, ": step ", scenario.steps.size() + 1));
    if (!parsed.ok()) return parsed.status();
    scenario.steps.push_back(*std::move(parsed));
  }
  return scenario;
}

absl::Status RunScenario(const Scenario& scenario, const Server& server, const std::string& work_dir, int daemon_pid) {
  std::error_code error;
  Session session;
  session.server = server;
  session.daemon_pid = daemon_pid;
  session.channel = MakeChannel(server);
  session.directory = std::filesystem::absolute(absl::StrCat(work_dir, "/", scenario.name, ".", ::getpid()), error);
  std::filesystem::create_directories(session.directory, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot create ", session.directory, ": ", error.message()));
  absl::Status status = RunSteps(scenario, session);
  session.held_calls.clear();
  if (!session.signal_time.has_value()) status.Update(UnloadModels(session));
  std::filesystem::remove_all(session.directory, error);
  return status;
}

}  // namespace keyload::mock
