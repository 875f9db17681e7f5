#include "tests/mock_client/load_script.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/mock_client/expectation.h"
#include "tests/mock_client/json_fields.h"
#include "tests/mock_client/session.h"

namespace keyload::mock {
namespace {

v1::LoadResponse::EventCase EventNamed(const std::string& name) {
  const auto* field = v1::LoadResponse::descriptor()->FindFieldByName(name);
  if (field == nullptr || field->containing_oneof() == nullptr) return v1::LoadResponse::EVENT_NOT_SET;
  return static_cast<v1::LoadResponse::EventCase>(field->number());
}

std::optional<Trigger> TakeTrigger(Fields& fields, const std::string& default_load) {
  Trigger trigger{.load_id = fields.Text("load", default_load),
                  .event = EventNamed(fields.RequiredText("event")),
                  .phase = fields.Text("phase", "")};
  if (trigger.event == v1::LoadResponse::EVENT_NOT_SET) fields.Fail("unknown event");
  if (!trigger.phase.empty() && trigger.event != v1::LoadResponse::kProgress) fields.Fail("only progress has a phase");
  return trigger;
}

absl::Status ParseOneLoad(const nlohmann::json& json, const std::string& where, ScriptedLoad& load) {
  Fields fields(json, where);
  load.id = fields.Text("id", "load");
  const nlohmann::json* spec = fields.Object("spec");
  if (spec == nullptr) {
    fields.Fail("needs the object \"spec\"");
  } else {
    load.spec = *spec;
    v1::LoadSpec parsed;
    if (absl::Status status = ParseMessage(load.spec, where, parsed); !status.ok()) return status;
  }
  if (const nlohmann::json* cancel = fields.Object("cancel_on"); cancel != nullptr) {
    Fields trigger(*cancel, absl::StrCat(where, ".cancel_on"));
    load.cancel_on = TakeTrigger(trigger, load.id);
    if (absl::Status status = trigger.Finish(); !status.ok()) return status;
  }
  const nlohmann::json* expect = fields.Object("expect");
  load.expect = expect == nullptr ? nlohmann::json::object() : *expect;
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  return ValidateExpectation(load.expect, where);
}

absl::Status ParseDrop(const nlohmann::json& json, const std::string& where, LoadScript& script) {
  Fields fields(json, where);
  script.drop_on = TakeTrigger(fields, script.loads.front().id);
  const std::string by = fields.RequiredText("by");
  if (by != "call" && by != "socket") fields.Fail("\"by\" is neither call nor socket");
  script.drop_by_socket = by == "socket";
  return fields.Finish();
}

absl::Status ParsePause(const nlohmann::json& json, const std::string& where, LoadScript& script) {
  Fields fields(json, where);
  script.pause_on = TakeTrigger(fields, script.loads.front().id);
  script.pause_until_model = fields.RequiredText("until_model");
  if (!v1::ModelState_Parse(fields.RequiredText("until_state"), &script.pause_until_state)) {
    fields.Fail("\"until_state\" is no ModelState");
  }
  return fields.Finish();
}

}  // namespace

bool Trigger::Fires(const v1::LoadResponse& response) const {
  return response.load_id() == load_id && response.event_case() == event &&
         (phase.empty() || response.progress().phase() == phase);
}

absl::Status ParseLoadScript(const nlohmann::json& json, const std::string& where, LoadScript& script) {
  Fields fields(json, where);
  fields.RequiredText("step");
  const nlohmann::json* loads = fields.Objects("loads");
  const nlohmann::json* drop = fields.Object("drop_on");
  const nlohmann::json* pause = fields.Object("stop_reading_on");
  script.within = absl::Milliseconds(fields.Count("within_ms", 30'000));
  if (loads == nullptr || loads->empty()) fields.Fail("needs \"loads\"");
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  for (const nlohmann::json& element : *loads) {
    ScriptedLoad load;
    if (absl::Status status = ParseOneLoad(element, where, load); !status.ok()) return status;
    script.loads.push_back(std::move(load));
  }
  if (drop != nullptr) {
    if (absl::Status status = ParseDrop(*drop, where, script); !status.ok()) return status;
  }
  return pause == nullptr ? absl::OkStatus() : ParsePause(*pause, where, script);
}

}  // namespace keyload::mock
