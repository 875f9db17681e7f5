#include "server/service/prepare.h"

#include <utility>

#include "server/base/error.h"
#include "server/io/file_system_kind.h"
#include "server/service/expected_keys.h"
#include "server/service/plan_report.h"

namespace keyload {
namespace {

bool MayMap(const Shard& shard) {
  if (shard.fd == nullptr) return false;
  const absl::StatusOr<FileSystemKind> kind = FileSystemOf(shard.fd->get(), shard.file);
  return kind.ok() && *kind == FileSystemKind::kLocal;
}

struct OpenedCheckpoint {
  std::shared_ptr<const CheckpointIndex> index;
  std::vector<bool> may_map;  // per shard
};

// All that may hang where a mount does not answer.
absl::StatusOr<OpenedCheckpoint> Open(const CheckpointSource& source, const KeySources& sources,
                                      const RequestContext& context) {
  const auto open = [roots = sources.roots, source, context,
                     headers = sources.headers]() -> absl::StatusOr<OpenedCheckpoint> {
    OpenedCheckpoint opened;
    KEYLOAD_ASSIGN_OR_RETURN(opened.index, OpenCheckpoint(*roots, source, context, headers));
    for (const Shard& shard : opened.index->shards()) opened.may_map.push_back(MayMap(shard));
    return opened;
  };
  return sources.Touch(source.path, context, open);
}

}  // namespace

absl::StatusOr<KeySelectionSpec> WithKeyList(KeySelectionSpec spec, const std::string& key_list_digest,
                                             DocumentStore& documents) {
  if (key_list_digest.empty()) return spec;
  KEYLOAD_ASSIGN_OR_RETURN(spec.list, documents.FindKeyList(key_list_digest));
  return spec;
}

absl::StatusOr<KeySelection> CompileSelection(const KeySelectionSpec& spec, const std::string& key_list_digest,
                                              DocumentStore& documents) {
  KEYLOAD_ASSIGN_OR_RETURN(const KeySelectionSpec with_list, WithKeyList(spec, key_list_digest, documents));
  return KeySelection::Compile(with_list);
}

absl::StatusOr<PreparedKeys> PrepareKeys(const LoadSpec& spec, const KeySources& sources, const RequestContext& context,
                                         PhaseClock& clock, const KeyReport* widened) {
  clock.Enter("open");
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  ExpectedKeys expected = {.manifest = nullptr, .from = ExpectedFrom::kManifest};
  KEYLOAD_ASSIGN_OR_RETURN(expected.manifest, FindManifest(spec.expected, sources, context));
  KEYLOAD_ASSIGN_OR_RETURN(const KeySelection selection,
                           CompileSelection(spec.select, spec.key_list_digest, sources.documents));
  clock.Enter("index");
  CheckpointSource source = spec.source;
  source.may_lack_shards = !selection.selects_all();  // Reconcile looks whether a selected key is in one of them
  KEYLOAD_ASSIGN_OR_RETURN(OpenedCheckpoint opened, Open(source, sources, context));
  const std::shared_ptr<const CheckpointIndex> index = std::move(opened.index);
  if (expected.manifest == nullptr) {
    KEYLOAD_ASSIGN_OR_RETURN(expected, FindExpectedKeys(spec, *index, sources, context, clock));
  }
  clock.Enter("reconcile");
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  PreparedKeys prepared = {.keys = nullptr,
                           .expected_from = expected.from,
                           .warning = std::move(expected.warning),
                           .may_map = std::move(opened.may_map)};
  KEYLOAD_ASSIGN_OR_RETURN(prepared.keys, Reconcile({.index = index,
                                                     .manifest = expected.manifest,
                                                     .rules = spec.rules,
                                                     .selection = &selection,
                                                     .widened = widened,
                                                     .context = &context}));
  return prepared;
}

PlacementInput MakeInput(const LoadSpec& spec, const PreparedKeys& prepared) {
  const KeyReport& keys = *prepared.keys;
  DTypeRequest dtype = {.wanted = spec.dtype, .keep_in_fp32 = {}};
  if (keys.manifest != nullptr) dtype.keep_in_fp32 = keys.manifest->keep_in_fp32;
  return MakePlacementInput(keys, dtype, spec.no_split_classes);
}

PlanOptions PlanOptionsOf(const LoadSpec& spec, const PreparedKeys& prepared) {
  const auto may_map = [first = prepared.keys->index->shards().data(), &prepared](const Shard& shard) {
    return prepared.may_map[static_cast<size_t>(&shard - first)];
  };
  return {.map_host_tensors = spec.host_storage == HostStorage::kMapped, .may_map_shard = may_map};
}

absl::StatusOr<PreparedPlan> PreparePlan(const LoadSpec& spec, const PreparedKeys& prepared,
                                         const std::vector<PlacementDevice>& devices, const DeviceSet& node,
                                         const RequestContext& context, PhaseClock& clock) {
  clock.Enter("place");
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  PlacementInput input = MakeInput(spec, prepared);
  PreparedPlan result;
  KEYLOAD_ASSIGN_OR_RETURN(result.placement, Place(input.model, spec.device_map, devices, &context));
  clock.Enter("plan");
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  result.plan = BuildLoadPlan(*prepared.keys, input, result.placement, PlanOptionsOf(spec, prepared));
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  result.added = result.plan;
  result.report = MakePlanReport(spec, prepared, input, result.placement, *result.plan, devices, node);
  result.added_devices = result.report.devices;
  result.placed_keys = std::move(input.keys);
  return result;
}

std::vector<PlacementDevice> SnapshotDevices(const DeviceSet& devices) {
  std::vector<PlacementDevice> snapshot;
  for (const std::unique_ptr<Device>& device : devices.devices()) {
    snapshot.push_back(
        {.name = device->info().name, .uuid = device->info().uuid, .free_bytes = device->account().state().free()});
  }
  return snapshot;
}

}  // namespace keyload
