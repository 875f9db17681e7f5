#pragma once

#include <string>

#include "server/load/transfer.h"
#include "server/service/prepare.h"
#include "server/store/resident_model.h"

namespace keyload {

// What the tensors of a plan have to begin with.
struct LoadedTensors {
  TransferResult transferred;               // of a lazy load only the segments, without memory
  std::vector<MemoryReservation> reserved;  // per device of the plan: kept for a lazy model
  std::vector<HeldPages> held;
};

// The parts of what is below, for those who make a model otherwise.
void SetDevices(const PreparedPlan& plan, ResidentModel::Content& content);
Residency::Content ResidencyOf(const LoadSpec& spec, std::shared_ptr<const LoadPlan> plan, LoadedTensors loaded);
void KeepHeld(std::vector<HeldPages> held, ResidentModel::Content& content);
// What a report says of the model as it is now: loaded, lazy and conflicting keys, warnings about conflicts, memory on
// each device, and the outcome COMPLETE or INCOMPLETE.
void FinishReport(const ResidentModel::Content& content, LoadReport& report);

// Joins what was planned and what was loaded into the content of a model, and finishes the report.
ResidentModel::Content MakeModelContent(const LoadSpec& spec, const PreparedKeys& prepared, PreparedPlan& plan,
                                        LoadedTensors loaded, const ReaderFactory& make_reader, LoadReport& report);

}  // namespace keyload
