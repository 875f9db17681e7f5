#include "server/service/materialize.h"

#include <algorithm>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/service/model_keys.h"
#include "server/service/plan_report.h"

namespace keyload {
namespace {

absl::Status CheckNames(const ResidentModel& model, const KeySelection& selection, PeriodicCheck& check) {
  for (size_t i = 0; i < selection.name_count(); ++i) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    const std::string_view name = selection.name(i);
    const int64_t index = model.FindKey(name);
    if (index < 0) {
      return MakeError(Reason::kKeyNotFound,
                       StrCat("model ", model.content().name, " has no key ", name.substr(0, kNameInMessage)),
                       {{"model", model.content().name}, {"key", std::string(name.substr(0, kNameInMessage))}});
    }
    if (model.content().keys->keys[index].state == KeyState::kNotSelected) {
      return model.CheckHasBytes(static_cast<uint32_t>(index));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFiles(const ResidentModel& model, const LoadPlan& part) {
  std::vector<bool> seen(model.content().keys->index->shards().size());
  for (const PlannedTensor& read : part.reads()) {
    if (seen[read.shard]) continue;
    seen[read.shard] = true;
    KEYLOAD_RETURN_IF_ERROR(model.CheckUnchanged(read.shard));
  }
  return absl::OkStatus();
}

// What `part` is about to load, for Transfer to add its measurements to.
LoadReport DescribePart(const ResidentModel& model, const LoadPlan& part, const Residency::Claim& claim) {
  LoadReport report;
  for (size_t i = 0; i < part.devices.size(); ++i) {
    report.devices.push_back({.device = part.devices[i], .reserved_bytes = claim.allocated_bytes(i)});
    for (const DeviceUse& use : model.report().devices) {
      if (use.device != part.devices[i]) continue;
      report.devices[i].uuid = use.uuid;
      report.devices[i].simulated = use.simulated;
    }
  }
  AddTensors(*model.content().keys->index, part, report);
  return report;
}

// Adds each entry of `part` to the one that has its `name`; where there is none it becomes one.
template <typename Entry>
void AddEntries(const std::vector<Entry>& part, std::string Entry::*name, std::vector<Entry>& entries,
                void (*add)(const Entry& entry, Entry& same)) {
  for (const Entry& entry : part) {
    const auto same =
        std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.*name == entry.*name; });
    same == entries.end() ? entries.push_back(entry) : add(entry, *same);
  }
}

void AddMeasured(const LoadReport& part, LoadReport& report) {
  report.bytes.read += part.bytes.read;
  report.bytes.cached += part.bytes.cached;
  report.bytes.mapped += part.bytes.mapped;
  report.bytes.peak_scratch = std::max(report.bytes.peak_scratch, part.bytes.peak_scratch);
  AddEntries<DeviceUse>(part.devices, &DeviceUse::device, report.devices, [](const DeviceUse& use, DeviceUse& same) {
    same.tensors += use.tensors;
    same.tensor_bytes += use.tensor_bytes;
    same.reserved_bytes += use.reserved_bytes;
    same.copied_bytes += use.copied_bytes;
    same.copy_duration += use.copy_duration;
  });
  AddEntries<ShardUse>(part.shards, &ShardUse::file, report.shards, [](const ShardUse& use, ShardUse& same) {
    same.tensors += use.tensors;
    same.selected_bytes += use.selected_bytes;
    same.read_bytes += use.read_bytes;
    same.duration += use.duration;
  });
  AddEntries<Phase>(part.busy, &Phase::name, report.busy,
                    [](const Phase& phase, Phase& same) { same.duration += phase.duration; });
}

absl::Status LoadClaim(const ResidentModel& model, Residency::Claim claim, const TransferResources& resources,
                       const RequestContext& context, PhaseClock& clock, LoadReport& report) {
  clock.Enter("reserve");
  const std::shared_ptr<const LoadPlan> part = SubPlan(*model.residency().plan(), claim.tensors());
  KEYLOAD_RETURN_IF_ERROR(CheckFiles(model, *part));
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<Segment> segments, claim.Allocate(*part, context));
  clock.Enter("transfer");
  LoadReport measured = DescribePart(model, *part, claim);
  const absl::Status status = Transfer(
                                  *part, *model.content().keys->index, std::move(segments), resources, context,
                                  [](const LoadProgress&) {}, measured)
                                  .status();
  AddMeasured(measured, report);
  if (status.ok()) claim.Commit();
  return status;
}

}  // namespace

absl::StatusOr<SelectedTensors> SelectTensors(const ResidentModel& model, const KeySelection& selection,
                                              size_t name_limit, const RequestContext* context) {
  PeriodicCheck check(context);
  KEYLOAD_RETURN_IF_ERROR(CheckNames(model, selection, check));
  KEYLOAD_RETURN_IF_ERROR(CheckWork(*model.content().keys, selection));
  SelectedTensors selected;
  const ResidentModel::Content& content = model.content();
  KeyCounts& counts = selected.report.keys;
  std::vector<bool> seen(content.plan->tensors.size());
  for (uint32_t i = 0; i < content.keys->keys.size(); ++i) {
    const ModelKey& key = content.keys->keys[i];
    if (key.state == KeyState::kNonPersistent) continue;
    ++counts.expected;
    KEYLOAD_RETURN_IF_ERROR(check.Check(selection.CostOf(key.name)));
    if (key.state == KeyState::kNotSelected || !selection.Selects(key.name)) continue;
    ++counts.selected;
    counts.missing += key.state == KeyState::kMissing;
    counts.missing_ignored += key.state == KeyState::kMissingIgnored;
    counts.missing_tied += key.state == KeyState::kTied;
    counts.mismatched += key.state == KeyState::kMismatched;
    const uint32_t tensor = model.TensorOf(i);
    if (key.state == KeyState::kFound) selected.keys.push_back(i);
    if (tensor == ResidentModel::kNoTensor || tensor == ResidentModel::kInFile || seen[tensor]) continue;
    seen[tensor] = true;
    selected.tensors.push_back(tensor);
    selected.report.bytes.selected += content.plan->tensors[tensor].stored_bytes;
  }
  counts.not_selected = counts.expected - counts.selected;
  for (const UnexpectedKey& key : content.keys->unexpected) {
    KEYLOAD_RETURN_IF_ERROR(check.Check(selection.CostOf(key.name)));
    if (selection.Selects(key.name)) ++(key.ignored ? counts.unexpected_ignored : counts.unexpected);
  }
  KEYLOAD_RETURN_IF_ERROR(AddNames(*content.keys, selection, name_limit, check, selected.report));
  return selected;
}

absl::Status MakeResident(const ResidentModel& model, std::span<const uint32_t> tensors,
                          const TransferResources& resources, const RequestContext& context, PhaseClock& clock,
                          LoadReport& report) {
  Residency& residency = model.residency();
  // A mount that does not answer holds up this thread, also where another one reads for it.
  const std::vector<Shard>& shards = model.content().keys->index->shards();
  StorageThreads::NotedMount mount;
  if (!shards.empty()) mount = StorageThreads::MountOfFile(resources.storage, shards.front().resolved);
  const StorageThreads::Operation waiting(mount, StorageThreads::Operation::Kind::kWaits);
  while (true) {
    KEYLOAD_RETURN_IF_ERROR(context.Check());
    Residency::Claim claim = residency.Begin(tensors);
    const bool others = claim.awaits_others();
    if (!claim.tensors().empty()) {
      KEYLOAD_RETURN_IF_ERROR(LoadClaim(model, std::move(claim), resources, context, clock, report));
    }
    if (!others) return absl::OkStatus();
    if (clock.current() != "transfer") clock.Enter("transfer");
    KEYLOAD_RETURN_IF_ERROR(residency.WaitForOthers(tensors, context));
  }
}

void CountResident(const ResidentModel& model, std::span<const uint32_t> keys, LoadReport& report) {
  const std::vector<Residency::State> states = model.residency().states();
  KeyCounts& counts = report.keys;
  counts.loaded = 0;
  for (const uint32_t key : keys) {
    const uint32_t tensor = model.content().tensor_of_key[key];
    counts.loaded += tensor != ResidentModel::kInFile && states[tensor] == Residency::State::kResident;
  }
  counts.lazy = keys.size() - counts.loaded;
}

}  // namespace keyload
