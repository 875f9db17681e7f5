#include <utility>

#include "absl/strings/str_cat.h"
#include "keyload/v1/model_loader.pb.h"
#include "tests/mock_client/call_error.h"
#include "tests/mock_client/expectation.h"
#include "tests/mock_client/json_fields.h"
#include "tests/mock_client/rpc_caller.h"
#include "tests/mock_client/steps.h"

namespace keyload::mock {
namespace {

// Per device what loads change. Free memory only where the device is keyload's alone: other programs change the
// host's.
absl::StatusOr<nlohmann::json> DeviceMemory(const Session& session) {
  const RpcResult result =
      CallMethod(session.channel, absl::StrCat("/", kServiceName, "/ListDevices"), "", absl::Seconds(10));
  if (!result.status.ok() || result.messages.empty()) {
    return absl::UnavailableError(absl::StrCat("ListDevices: ", ErrorJson(result.status).dump()));
  }
  v1::ListDevicesResponse response;
  if (!response.ParseFromString(result.messages.front())) return absl::InternalError("ListDevices does not parse");
  nlohmann::json memory = nlohmann::json::object();
  for (const v1::Device& device : response.devices()) {
    nlohmann::json& entry = memory[device.device()];
    entry = {{"usedBytes", device.used_bytes()}, {"reservedBytes", device.reserved_bytes()}};
    if (device.simulated()) entry["freeBytes"] = device.free_bytes();
  }
  return memory;
}

class RememberDevices final : public Step {
 public:
  absl::Status Run(Session& session) override {
    absl::StatusOr<nlohmann::json> memory = DeviceMemory(session);
    if (!memory.ok()) return memory.status();
    session.remembered_devices = *std::move(memory);
    return absl::OkStatus();
  }
};

class DevicesAsRemembered final : public Step {
 public:
  explicit DevicesAsRemembered(absl::Duration within) : within_(within) {}

  absl::Status Run(Session& session) override {
    if (session.remembered_devices.is_null()) return absl::InvalidArgumentError("no step has remembered the devices");
    return Poll(within_, [&] {
      const absl::StatusOr<nlohmann::json> memory = DeviceMemory(session);
      return memory.ok() ? Match(session.remembered_devices, *memory, "devices") : memory.status();
    });
  }

 private:
  const absl::Duration within_;
};

}  // namespace

StepOr ParseRememberDevices(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  return std::make_unique<RememberDevices>();
}

StepOr ParseDevicesAsRemembered(const nlohmann::json& json, const std::string& where) {
  Fields fields(json, where);
  fields.RequiredText("step");
  const absl::Duration within = absl::Milliseconds(fields.Count("within_ms", 10'000));
  if (absl::Status status = fields.Finish(); !status.ok()) return status;
  return std::make_unique<DevicesAsRemembered>(within);
}

}  // namespace keyload::mock
