#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/device/device.h"
#include "server/expected/derive_manifest.h"
#include "server/plan/load_plan.h"
#include "server/report/load_report.h"
#include "server/report/phase_clock.h"
#include "server/service/document_store.h"
#include "server/service/key_sources.h"
#include "server/service/load_spec.h"

namespace keyload {

// `spec` with an uploaded key list added, which is shared and not copied; an empty digest names none.
// DOCUMENT_NOT_FOUND.
absl::StatusOr<KeySelectionSpec> WithKeyList(KeySelectionSpec spec, const std::string& key_list_digest,
                                             DocumentStore& documents);
// The same, compiled and counted as the heap of `context`. PATTERN_INVALID and MEMORY_EXHAUSTED besides.
absl::StatusOr<KeySelection> CompileSelection(const KeySelectionSpec& spec, const std::string& key_list_digest,
                                              DocumentStore& documents, const RequestContext& context);

// What is decided about keys, before any device is looked at.
struct PreparedKeys {
  std::shared_ptr<const KeyReport> keys;
  ExpectedFrom expected_from = ExpectedFrom::kCheckpoint;
  std::string compared_with;  // as LoadReport has it
  std::vector<Finding> findings;
  std::string warning;        // about where the expected keys come from; empty: none
  std::vector<bool> may_map;  // per shard: its file system is one whose files may be mapped
};

// Opens the checkpoint and reconciles it with what is expected: phases open, index, expected (with a config.json) and
// reconcile. `widened`: the keys
// of the model that is made wider, as in ReconcileInput. Reads headers, no tensor byte. Blocks on files.
// `audit`: the names of a checkpoint that is compared with nothing are looked at for gaps, which takes as long as the
// rest of a plan some times over; a load does not wait for that.
absl::StatusOr<PreparedKeys> PrepareKeys(const LoadSpec& spec, const KeySources& sources, const RequestContext& context,
                                         PhaseClock& clock, const KeyReport* widened = nullptr, bool audit = false);

// A finished decision.
struct PreparedPlan {
  Placement placement;
  std::vector<uint32_t> placed_keys;      // per placed tensor: index into KeyReport::keys
  std::shared_ptr<const LoadPlan> plan;   // of the model
  std::shared_ptr<const LoadPlan> added;  // the part of it that this load brings: all, unless it extends a model
  std::vector<DeviceUse> added_devices;   // that part of report.devices
  LoadReport report;                      // everything that is known before a byte is read
};

// Places the keys on `devices` and cuts them into segments and extents: phases place and plan. Pure.
absl::StatusOr<PreparedPlan> PreparePlan(const LoadSpec& spec, const PreparedKeys& prepared,
                                         const std::vector<PlacementDevice>& devices, const DeviceSet& node,
                                         const RequestContext& context, PhaseClock& clock);

// What PreparePlan gives to placement and to the plan.
PlacementInput MakeInput(const LoadSpec& spec, const PreparedKeys& prepared);
PlanOptions PlanOptionsOf(const LoadSpec& spec, const PreparedKeys& prepared);

// The devices of the node with their free memory at this moment.
std::vector<PlacementDevice> SnapshotDevices(const DeviceSet& devices);

}  // namespace keyload
