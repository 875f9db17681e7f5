#include "server/service/materialize.h"

#include <algorithm>
#include <map>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/natural_order.h"

namespace keyload {
namespace {

absl::Status CheckNames(const ResidentModel& model, const KeySelection& selection) {
  for (const std::string& name : selection.names()) {
    const int64_t index = model.FindKey(name);
    if (index < 0) {
      return MakeError(Reason::kKeyNotFound,
                       StrCat("model ", model.content().name, " has no key ", name.substr(0, kNameInMessage)),
                       {{"model", model.content().name}, {"key", name.substr(0, kNameInMessage)}});
    }
    if (model.content().keys->keys[index].state == KeyState::kNotSelected) {
      return model.CheckHasBytes(static_cast<uint32_t>(index));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFiles(const ResidentModel& model, const LoadPlan& part) {
  std::vector<bool> seen(model.content().keys->index->shards().size());
  for (const PlannedTensor& tensor : part.tensors) {
    if (seen[tensor.shard]) continue;
    seen[tensor.shard] = true;
    KEYLOAD_RETURN_IF_ERROR(model.CheckUnchanged(tensor.shard));
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
  std::map<uint32_t, ShardUse> shards;  // in the index's order
  for (const PlannedTensor& tensor : part.tensors) {
    const PlannedSegment& segment = part.segments[tensor.segment];
    ++report.devices[segment.device].tensors;
    report.devices[segment.device].tensor_bytes += tensor.bytes;
    const std::string_view engine = segment.kind == SegmentKind::kFile ? "mapped" : "buffered";
    ShardUse& shard = shards[tensor.shard];
    ++shard.tensors;
    shard.selected_bytes += tensor.stored_bytes;
    if (shard.engine.find(engine) == std::string::npos) shard.engine += StrCat(shard.engine.empty() ? "" : "+", engine);
  }
  for (auto& [shard, use] : shards) {
    use.file = model.content().keys->index->shards()[shard].file;
    report.shards.push_back(std::move(use));
  }
  return report;
}

void Add(const LoadReport& part, LoadReport& report) {
  report.bytes.read += part.bytes.read;
  report.bytes.cached += part.bytes.cached;
  report.bytes.mapped += part.bytes.mapped;
  report.bytes.peak_scratch = std::max(report.bytes.peak_scratch, part.bytes.peak_scratch);
  for (const DeviceUse& use : part.devices) {
    const auto same = std::find_if(report.devices.begin(), report.devices.end(),
                                   [&](const DeviceUse& d) { return d.device == use.device; });
    if (same == report.devices.end()) {
      report.devices.push_back(use);
      continue;
    }
    same->tensors += use.tensors;
    same->tensor_bytes += use.tensor_bytes;
    same->reserved_bytes += use.reserved_bytes;
    same->copied_bytes += use.copied_bytes;
    same->copy_duration += use.copy_duration;
  }
  for (const ShardUse& use : part.shards) {
    const auto same =
        std::find_if(report.shards.begin(), report.shards.end(), [&](const ShardUse& s) { return s.file == use.file; });
    if (same == report.shards.end()) {
      report.shards.push_back(use);
      continue;
    }
    same->tensors += use.tensors;
    same->selected_bytes += use.selected_bytes;
    same->read_bytes += use.read_bytes;
    same->duration += use.duration;
  }
  for (const Phase& phase : part.busy) {
    const auto same =
        std::find_if(report.busy.begin(), report.busy.end(), [&](const Phase& p) { return p.name == phase.name; });
    same == report.busy.end() ? report.busy.push_back(phase) : void(same->duration += phase.duration);
  }
}

absl::Status LoadClaim(const ResidentModel& model, Residency::Claim claim, const TransferResources& resources,
                       const RequestContext& context, PhaseClock& clock, LoadReport& report) {
  clock.Enter("reserve");
  const std::shared_ptr<const LoadPlan> part = SubPlan(*model.residency().plan(), claim.tensors());
  KEYLOAD_RETURN_IF_ERROR(CheckFiles(model, *part));
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<Segment> segments, claim.Allocate());
  clock.Enter("transfer");
  LoadReport measured = DescribePart(model, *part, claim);
  const absl::Status status = Transfer(
                                  *part, *model.content().keys->index, std::move(segments), resources, context,
                                  [](const LoadProgress&) {}, measured)
                                  .status();
  Add(measured, report);
  if (status.ok()) claim.Commit();
  return status;
}

}  // namespace

absl::StatusOr<SelectedTensors> SelectTensors(const ResidentModel& model, const KeySelection& selection,
                                              size_t name_limit) {
  KEYLOAD_RETURN_IF_ERROR(CheckNames(model, selection));
  SelectedTensors selected;
  const ResidentModel::Content& content = model.content();
  KeyCounts& counts = selected.report.keys;
  std::vector<bool> seen(content.plan->tensors.size());
  std::vector<std::string_view> missing;
  for (uint32_t i = 0; i < content.keys->keys.size(); ++i) {
    const ModelKey& key = content.keys->keys[i];
    if (key.state == KeyState::kNonPersistent) continue;
    ++counts.expected;
    if (key.state == KeyState::kNotSelected || !selection.Selects(key.name)) continue;
    ++counts.selected;
    counts.missing += key.state == KeyState::kMissing;
    counts.missing_ignored += key.state == KeyState::kMissingIgnored;
    counts.missing_tied += key.state == KeyState::kTied;
    counts.mismatched += key.state == KeyState::kMismatched;
    if (key.state == KeyState::kMissing) missing.push_back(key.name);
    const uint32_t tensor = model.TensorOf(i);
    if (key.state == KeyState::kFound) selected.keys.push_back(i);
    if (tensor == ResidentModel::kNoTensor || tensor == ResidentModel::kInFile || seen[tensor]) continue;
    seen[tensor] = true;
    selected.tensors.push_back(tensor);
    selected.report.bytes.selected += content.plan->tensors[tensor].stored_bytes;
  }
  counts.not_selected = counts.expected - counts.selected;
  std::sort(missing.begin(), missing.end(), NaturalLess);
  missing.resize(std::min(missing.size(), name_limit));
  selected.report.missing_keys.assign(missing.begin(), missing.end());
  return selected;
}

absl::Status MakeResident(const ResidentModel& model, std::span<const uint32_t> tensors,
                          const TransferResources& resources, const RequestContext& context, PhaseClock& clock,
                          LoadReport& report) {
  Residency& residency = model.residency();
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

void CountResident(const ResidentModel& model, SelectedTensors& selected) {
  const std::vector<Residency::State> states = model.residency().states();
  KeyCounts& counts = selected.report.keys;
  counts.loaded = 0;
  for (const uint32_t key : selected.keys) {
    const uint32_t tensor = model.content().tensor_of_key[key];
    counts.loaded += tensor != ResidentModel::kInFile && states[tensor] == Residency::State::kResident;
  }
  counts.lazy = selected.keys.size() - counts.loaded;
}

}  // namespace keyload
