#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tests/mock_client/session.h"

namespace keyload::mock {

using StepOr = absl::StatusOr<std::unique_ptr<Step>>;

// Parses {"step": KIND, ...}. `where` begins every message. The kinds and their fields are listed in README.md.
StepOr ParseStep(const nlohmann::json& json, const std::string& where);

// One per kind, in the file named after its group.
StepOr ParseMakeCheckpoint(const nlohmann::json& json, const std::string& where);  // file_steps.cc
StepOr ParseTruncate(const nlohmann::json& json, const std::string& where);
StepOr ParseWriteFile(const nlohmann::json& json, const std::string& where);
StepOr ParseLink(const nlohmann::json& json, const std::string& where);
StepOr ParseRead(const nlohmann::json& json, const std::string& where);
StepOr ParseCall(const nlohmann::json& json, const std::string& where);  // call_steps.cc
StepOr ParseRawCall(const nlohmann::json& json, const std::string& where);
StepOr ParseRawBytes(const nlohmann::json& json, const std::string& where);
StepOr ParseUploadManifest(const nlohmann::json& json, const std::string& where);   // upload_step.cc
StepOr ParseRememberDevices(const nlohmann::json& json, const std::string& where);  // device_steps.cc
StepOr ParseDevicesAsRemembered(const nlohmann::json& json, const std::string& where);
StepOr ParseLoad(const nlohmann::json& json, const std::string& where);  // load_step.cc
StepOr ParseOpen(const nlohmann::json& json, const std::string& where);  // held_steps.cc
StepOr ParseAwait(const nlohmann::json& json, const std::string& where);
StepOr ParseDrop(const nlohmann::json& json, const std::string& where);
StepOr ParseSignal(const nlohmann::json& json, const std::string& where);

}  // namespace keyload::mock
