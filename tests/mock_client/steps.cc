#include "tests/mock_client/steps.h"

#include <iterator>

#include "absl/strings/str_cat.h"

namespace keyload::mock {
namespace {

struct StepKind {
  const char* name;
  StepOr (*parse)(const nlohmann::json&, const std::string&);
};

constexpr StepKind kStepKinds[] = {
    {"make_checkpoint", ParseMakeCheckpoint},
    {"truncate", ParseTruncate},
    {"write_file", ParseWriteFile},
    {"link", ParseLink},
    {"load", ParseLoad},
    {"read", ParseRead},
    {"call", ParseCall},
    {"raw_call", ParseRawCall},
    {"raw_bytes", ParseRawBytes},
    {"upload_manifest", ParseUploadManifest},
    {"remember_devices", ParseRememberDevices},
    {"devices_as_remembered", ParseDevicesAsRemembered},
    {"open", ParseOpen},
    {"await", ParseAwait},
    {"drop", ParseDrop},
    {"signal", ParseSignal},
};

}  // namespace

StepOr ParseStep(const nlohmann::json& json, const std::string& where) {
  const auto name = json.is_object() ? json.find("step") : json.end();
  if (name == json.end() || !name->is_string()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": needs the string \"step\""));
  }
  for (const StepKind& kind : kStepKinds) {
    if (*name == kind.name) return kind.parse(json, absl::StrCat(where, " ", kind.name));
  }
  return absl::InvalidArgumentError(absl::StrCat(where, ": unknown step \"", name->get<std::string>(), "\""));
}

}  // namespace keyload::mock
