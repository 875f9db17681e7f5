#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "grpcpp/channel.h"
#include "nlohmann/json.hpp"
#include "tests/mock_client/connection.h"
#include "tests/mock_client/held_call.h"
#include "tests/mock_client/made_checkpoint.h"

namespace keyload::mock {

// A call that an `open` step has started.
struct HeldMethod {
  const google::protobuf::MethodDescriptor* method = nullptr;
  std::shared_ptr<HeldCall> call;
};

// What the steps of one running scenario share. Confined to the thread that runs it.
struct Session {
  Server server;
  std::shared_ptr<grpc::Channel> channel;        // to `server`
  std::string directory;                         // of this scenario alone; the daemon sees it under the same path
  std::map<std::string, std::string> variables;  // "digest.NAME" of uploaded documents and what calls save
  std::map<std::string, std::vector<NamedTensor>> checkpoints;
  nlohmann::json remembered_devices;
  std::set<std::string> models;  // that a step may have loaded; they are unloaded when the scenario ends
  std::map<std::string, HeldMethod> held_calls;  // by the name that the scenario gives them
  int daemon_pid = 0;                            // 0: not to be sent signals
  std::optional<absl::Time> signal_time;         // of the first signal: the daemon is going down
};

// One thing that a scenario does. What can be wrong in its text is found when it is parsed.
class Step {
 public:
  virtual ~Step() = default;
  virtual absl::Status Run(Session& session) = 0;
};

// Replaces "${dir}" by the scenario's directory and "${NAME}" by a variable in every string of `value`.
// INVALID_ARGUMENT names a variable that no step has set.
absl::Status Substitute(const Session& session, nlohmann::json& value);

// Parses proto3 JSON; unknown fields are errors. INVALID_ARGUMENT begins with `where`.
absl::Status ParseMessage(const nlohmann::json& value, const std::string& where, google::protobuf::Message& message);

// Runs `attempt` until it succeeds or `limit` has passed, and returns the last result.
absl::Status Poll(absl::Duration limit, const std::function<absl::Status()>& attempt);

}  // namespace keyload::mock
