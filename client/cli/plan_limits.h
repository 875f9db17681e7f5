#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/plan_text.h"
#include "keyload/client.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// What a plan had to choose from.
struct PlanSpace {
  DeviceLimits limits;   // empty: not known
  bool chooses = false;  // a policy placed by these limits; one device or a map is what the caller wants
};

// max_memory of the request or of the map that it names, else what plan_for says, else the free memory of the server's
// devices. Asks the server for the map and the devices; what it does not tell stays unknown.
PlanSpace FindPlanSpace(Client& client, const v1::LoadSpec& spec, const CallOptions& options);

// The map and what does not fit it, for people: PlanMapText and one line. Of a policy that is what is not on the GPUs,
// with the least limit for all GPUs alike that has room for everything, rounded up, as `plan` says that is called with
// changed specs about a dozen times; of one device or a map, a device that is too small.
using PlanCall = std::function<absl::StatusOr<v1::LoadReport>(const v1::LoadSpec&)>;
std::string PlanText(const v1::LoadSpec& spec, const v1::LoadReport& report, const PlanSpace& space,
                     const PlanCall& plan);

}  // namespace keyload::cli
