#include "tests/mock_client/session.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "google/protobuf/util/json_util.h"

namespace keyload::mock {
namespace {

constexpr absl::Duration kPollInterval = absl::Milliseconds(20);

absl::Status SubstituteText(const Session& session, std::string& text) {
  absl::StrReplaceAll({{"${dir}", session.directory}}, &text);
  for (const auto& [name, value] : session.variables)
    absl::StrReplaceAll({{absl::StrCat("${", name, "}"), value}}, &text);
  if (text.find("${") == std::string::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("no step has set the variable in \"", text, "\""));
}

}  // namespace

absl::Status Substitute(const Session& session, nlohmann::json& value) {
  if (value.is_string()) return SubstituteText(session, value.get_ref<std::string&>());
  if (value.is_structured()) {
    for (nlohmann::json& element : value) {
      if (absl::Status status = Substitute(session, element); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status ParseMessage(const nlohmann::json& value, const std::string& where, google::protobuf::Message& message) {
  const auto status = google::protobuf::util::JsonStringToMessage(value.dump(), &message);
  if (status.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", std::string(status.message())));
}

absl::Status Poll(absl::Duration limit, const std::function<absl::Status()>& attempt) {
  const absl::Time deadline = absl::Now() + limit;
  while (true) {
    const absl::Status status = attempt();
    if (status.ok() || absl::Now() >= deadline) return status;
    std::this_thread::sleep_for(absl::ToChronoMilliseconds(kPollInterval));
  }
}

}  // namespace keyload::mock
