#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "keyload/v1/model_loader.pb.h"
#include "nlohmann/json.hpp"

namespace keyload::mock {

// A moment in a load: its first event of a kind, of a phase where one is named.
struct Trigger {
  std::string load_id;
  v1::LoadResponse::EventCase event = v1::LoadResponse::EVENT_NOT_SET;
  std::string phase;  // progress only; empty: any

  bool Fires(const v1::LoadResponse& response) const;
};

struct ScriptedLoad {
  std::string id;
  nlohmann::json spec;  // proto3 JSON of a LoadSpec
  std::optional<Trigger> cancel_on;
  nlohmann::json expect;  // {"planned": ..., "report": ...} or {"error": ...}
};

// What happens on one Load stream.
struct LoadScript {
  std::vector<ScriptedLoad> loads;  // all started at once, in this order
  // The client goes away: it cancels the call, or its connection breaks. Nothing more is expected of the loads.
  std::optional<Trigger> drop_on;
  bool drop_by_socket = false;
  // The client stops reading until `pause_until_model` is in `pause_until_state`, as another connection tells.
  std::optional<Trigger> pause_on;
  std::string pause_until_model;
  v1::ModelState pause_until_state = v1::MODEL_STATE_RESIDENT;
  absl::Duration within;  // for the whole stream
};

// Parses the fields of a "load" step. INVALID_ARGUMENT.
absl::Status ParseLoadScript(const nlohmann::json& json, const std::string& where, LoadScript& script);

}  // namespace keyload::mock
