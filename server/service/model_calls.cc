// The calls of LoaderService about a model that is loaded.

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/retry.h"
#include "server/service/loader_service.h"
#include "server/service/materialize.h"

namespace keyload {
namespace {

constexpr size_t kReadAheadKeys = 1024;
constexpr uint64_t kReadAheadBytes = 64 << 20;

}  // namespace

absl::StatusOr<LoadReport> LoaderService::Materialize(const ModelSelection& selection, const Limits& limits,
                                                      const RequestContext& context, PhaseClock& clock) {
  deps_.metrics->MaterializationStarted();
  LoadReport report;
  const absl::Status status = MaterializeInto(report, selection, limits, context, clock);
  deps_.metrics->BytesLoaded(report.bytes);
  absl::StatusOr<LoadReport> result = status.ok() ? absl::StatusOr<LoadReport>(std::move(report)) : status;
  deps_.metrics->MaterializationEnded(result);
  return result;
}

absl::Status LoaderService::MaterializeInto(LoadReport& report, const ModelSelection& selection, const Limits& limits,
                                            const RequestContext& context, PhaseClock& clock) {
  if (draining_) return Draining();
  const absl::Time start_time = absl::Now();
  clock.Enter("plan");
  KEYLOAD_ASSIGN_OR_RETURN(const ModelHandle model, deps_.registry->Use(selection.model));
  KEYLOAD_ASSIGN_OR_RETURN(const KeySelection keys,
                           CompileSelection(selection.select, selection.key_list_digest, *deps_.documents, context));
  KEYLOAD_ASSIGN_OR_RETURN(SelectedTensors selected, SelectTensors(*model, keys, kDefaultNameLimit, &context));
  report = std::move(selected.report);
  report.load = table_.NextName();
  report.model = selection.model;
  report.generation = model->report().generation;
  report.expected_from = model->report().expected_from;
  report.start_time = start_time;
  if (ExceedsLimits(report.keys, limits)) {
    report.outcome = Outcome::kRejected;
  } else {
    const absl::Status status = MakeResident(*model, selected.tensors, deps_.transfer, context, clock, report);
    deps_.registry->UpdateState(selection.model);
    KEYLOAD_RETURN_IF_ERROR(Annotate(status, report.load, {{"load", report.load}}));
    report.outcome = report.keys.missing + report.keys.mismatched > 0 ? Outcome::kIncomplete : Outcome::kComplete;
  }
  clock.Enter("publish");
  CountResident(*model, selected.keys, report);
  clock.Write(report);
  LogLoad(report, context.caller.get());
  if (deps_.state != nullptr) {
    deps_.state->KeepLoadSoon({.identity = {.load = report.load, .model = report.model}, .result = report});
  }
  const std::vector<std::string> dropped = table_.AddEnded(report);
  if (deps_.state != nullptr) deps_.state->DropLoads(dropped);
  return absl::OkStatus();
}

absl::StatusOr<Residency::Evicted> LoaderService::Evict(const ModelSelection& selection,
                                                        const RequestContext& context) {
  KEYLOAD_ASSIGN_OR_RETURN(const ModelHandle model, deps_.registry->Use(selection.model));
  KEYLOAD_ASSIGN_OR_RETURN(const KeySelection keys,
                           CompileSelection(selection.select, selection.key_list_digest, *deps_.documents, context));
  KEYLOAD_ASSIGN_OR_RETURN(const SelectedTensors selected, SelectTensors(*model, keys, /*name_limit=*/0, &context));
  const Residency::Evicted evicted = model->residency().Evict(selected.tensors);
  deps_.registry->UpdateState(selection.model);
  deps_.metrics->Evicted(evicted.bytes);
  Log(LogLevel::kInfo, "evict",
      {{"model", selection.model}, {"tensors", evicted.tensors}, {"freed_bytes", evicted.bytes}}, context.caller.get());
  return evicted;
}

size_t LoaderService::ReadAhead(const ResidentModel& model, std::span<const uint32_t> keys,
                                const RequestContext& context) {
  std::vector<uint32_t> tensors;
  uint64_t bytes = 0;
  size_t count = 0;
  for (; count < std::min(keys.size(), kReadAheadKeys); ++count) {
    bytes += DescribeKey(model, nullptr, keys[count]).bytes;
    if (count > 0 && bytes > kReadAheadBytes) break;
    const uint32_t tensor = model.TensorOf(keys[count]);
    if (tensor != ResidentModel::kInFile) tensors.push_back(tensor);
  }
  std::sort(tensors.begin(), tensors.end());
  tensors.erase(std::unique(tensors.begin(), tensors.end()), tensors.end());  // tied keys have the same
  if (tensors.size() < 2) return count;                                       // nothing to read together
  PhaseClock clock;
  LoadReport report;
  MakeResident(model, tensors, deps_.transfer, context, clock, report).IgnoreError();
  deps_.metrics->BytesLoaded(report.bytes);
  deps_.registry->UpdateState(model.content().name);
  return count;
}

absl::StatusOr<TensorBytes> LoaderService::OpenTensor(const ResidentModel& model, uint32_t key,
                                                      const RequestContext& context) {
  while (true) {
    if (std::optional<TensorBytes> bytes = model.Open(key)) return *std::move(bytes);
    // Lazy, or evicted since.
    const uint32_t tensor = model.TensorOf(key);
    PhaseClock clock;
    LoadReport report;
    const absl::Status status = MakeResident(model, {&tensor, 1}, deps_.transfer, context, clock, report);
    deps_.metrics->BytesLoaded(report.bytes);
    deps_.registry->UpdateState(model.content().name);
    KEYLOAD_RETURN_IF_ERROR(status);
  }
}

}  // namespace keyload
