#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/keys/key_selection.h"
#include "server/load/transfer.h"
#include "server/report/load_report.h"
#include "server/report/phase_clock.h"
#include "server/store/resident_model.h"

namespace keyload {

// What a selection comes to in a loaded model.
struct SelectedTensors {
  std::vector<uint32_t> keys;     // that have bytes of their own
  std::vector<uint32_t> tensors;  // indices into the model's plan, each once; tied keys give their holder's
  LoadReport report;              // counts and names over the selection; `loaded` and `lazy` are still open
};
// KEY_NOT_FOUND for an exact name that is no key of the model, KEY_NOT_RESIDENT for one that its load did not select.
// What is missing, unexpected or mismatched is counted and named as in the report of a load with that selection, but
// for tied keys: one whose holder is not selected is not missing. Never blocks. PATTERN_INVALID and the errors of
// `context` (null: never asked) as from ListKeys.
absl::StatusOr<SelectedTensors> SelectTensors(const ResidentModel& model, const KeySelection& selection,
                                              size_t name_limit, const RequestContext* context);

// Makes `tensors` of the model's plan resident. However many callers ask at the same time, each tensor is read once:
// what another caller is loading is waited for, and taken over if that one fails. Enters the phases reserve and
// transfer; adds what this call read, reserved and copied to `report`. Blocks. On an error what this call loaded before
// stays, and the rest is lazy again: what MemoryReservation and Transfer return, CHECKPOINT_CHANGED, LOAD_CANCELLED,
// DEADLINE_EXCEEDED.
absl::Status MakeResident(const ResidentModel& model, std::span<const uint32_t> tensors,
                          const TransferResources& resources, const RequestContext& context, PhaseClock& clock,
                          LoadReport& report);

// Sets `loaded` and `lazy` of the report to what is resident of `keys`, which have bytes of their own, now.
void CountResident(const ResidentModel& model, std::span<const uint32_t> keys, LoadReport& report);

}  // namespace keyload
