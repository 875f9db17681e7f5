#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "server/report/phase_clock.h"
#include "server/service/load_spec.h"
#include "server/service/prepare.h"
#include "server/service/publish.h"
#include "server/store/resident_model.h"

namespace keyload {

// A load that widens a resident model (IF_EXISTS_EXTEND): what was placed stays where it is, new keys are placed beside
// it, and both together are the next generation.

// Whether `keys` selects one that `model` did not.
bool SelectsMore(const ResidentModel& model, const KeyReport& keys);

// As PreparePlan, with the keys that `model` has placed where they are and only the others placed on `devices`. The
// plan is that of the model afterwards, its devices, tensors and segments those of `model` first; `added` is the new
// part alone, and numbers devices alike. The report is about the model afterwards, but for bytes and shards.
absl::StatusOr<PreparedPlan> PrepareExtension(const LoadSpec& spec, const PreparedKeys& prepared,
                                              const ResidentModel& model, std::vector<PlacementDevice> devices,
                                              const DeviceSet& node, const RequestContext& context, PhaseClock& clock);

// As MakeModelContent. Widens the residency that both generations share, which is to be cut back (Residency::CutBack)
// when the new one is not published.
ResidentModel::Content MakeExtendedContent(const LoadSpec& spec, const PreparedKeys& prepared, PreparedPlan& plan,
                                           const ResidentModel& model, LoadedTensors loaded, LoadReport& report);

}  // namespace keyload
