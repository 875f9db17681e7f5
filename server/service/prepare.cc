#include "server/service/prepare.h"

#include <algorithm>
#include <utility>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"
#include "server/io/file_system_kind.h"
#include "server/service/audit_keys.h"
#include "server/service/expected_keys.h"
#include "server/service/like_checkpoint.h"
#include "server/service/plan_report.h"

namespace keyload {
namespace {

bool MayMap(const Shard& shard) {
  if (shard.fd == nullptr) return false;
  const absl::StatusOr<FileSystemKind> kind = FileSystemOf(shard.fd->get(), shard.file);
  return kind.ok() && *kind == FileSystemKind::kLocal;
}

// Of all tables that planning makes for a key, roughly: of the keys, of the placement and of the plan. What stays with
// a loaded model is less than a third.
constexpr uint64_t kPlanningBytesPerKey = 600;
constexpr uint64_t kPlanBytesPerKey = 100;
constexpr uint64_t kManifestBytesPerKey = 2 * sizeof(TensorSpec);
constexpr std::string_view kKeyTables = "planning its keys";

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

std::string DescribeManifest(const Manifest& manifest) {
  return manifest.architecture.empty() ? "the manifest"
                                       : StrCat("the manifest (", Shortened(manifest.architecture), ")");
}

absl::StatusOr<ExpectedKeys> ExpectLike(const CheckpointSource& like, const KeySources& sources,
                                        const RequestContext& context) {
  absl::StatusOr<OpenedCheckpoint> opened = Open(like, sources, context);
  if (!opened.ok()) return Annotate(opened.status(), "the checkpoint to compare with");
  KEYLOAD_RETURN_IF_ERROR(context.TakeHeap(opened->index->tensors().size() * kManifestBytesPerKey, kKeyTables));
  KEYLOAD_ASSIGN_OR_RETURN(std::shared_ptr<const Manifest> manifest, ManifestOf(*opened->index, context));
  KEYLOAD_ASSIGN_OR_RETURN(manifest, sources.documents.Count(std::move(manifest)));
  return ExpectedKeys{.manifest = std::move(manifest),
                      .from = ExpectedFrom::kLike,
                      .warning = "",
                      .compared_with = StrCat("the keys of ", Shortened(opened->index->resolved()))};
}

}  // namespace

absl::StatusOr<KeySelectionSpec> WithKeyList(KeySelectionSpec spec, const std::string& key_list_digest,
                                             DocumentStore& documents) {
  if (key_list_digest.empty()) return spec;
  KEYLOAD_ASSIGN_OR_RETURN(spec.list, documents.FindKeyList(key_list_digest));
  return spec;
}

absl::StatusOr<KeySelection> CompileSelection(const KeySelectionSpec& spec, const std::string& key_list_digest,
                                              DocumentStore& documents, const RequestContext& context) {
  KEYLOAD_ASSIGN_OR_RETURN(const KeySelectionSpec with_list, WithKeyList(spec, key_list_digest, documents));
  KEYLOAD_ASSIGN_OR_RETURN(KeySelection selection, KeySelection::Compile(with_list));
  KEYLOAD_RETURN_IF_ERROR(context.TakeHeap(selection.memory_bytes(), "the globs of the selection"));
  return selection;
}

absl::StatusOr<PreparedKeys> PrepareKeys(const LoadSpec& spec, const KeySources& sources, const RequestContext& context,
                                         PhaseClock& clock, const KeyReport* widened, bool audit) {
  clock.Enter("open");
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  ExpectedKeys expected = {.manifest = nullptr, .from = ExpectedFrom::kManifest};
  KEYLOAD_ASSIGN_OR_RETURN(expected.manifest, FindManifest(spec.expected, sources, context));
  if (expected.manifest != nullptr) expected.compared_with = DescribeManifest(*expected.manifest);
  KEYLOAD_ASSIGN_OR_RETURN(const KeySelection selection,
                           CompileSelection(spec.select, spec.key_list_digest, sources.documents, context));
  clock.Enter("index");
  CheckpointSource source = spec.source;
  source.may_lack_shards = !selection.selects_all();  // Reconcile looks whether a selected key is in one of them
  KEYLOAD_ASSIGN_OR_RETURN(OpenedCheckpoint opened, Open(source, sources, context));
  const std::shared_ptr<const CheckpointIndex> index = std::move(opened.index);
  if (spec.expected.like) {
    KEYLOAD_ASSIGN_OR_RETURN(expected, ExpectLike(*spec.expected.like, sources, context));
  } else if (expected.manifest == nullptr) {
    KEYLOAD_ASSIGN_OR_RETURN(expected, FindExpectedKeys(spec, *index, sources, context, clock));
  }
  clock.Enter("reconcile");
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  PreparedKeys prepared = {.keys = nullptr,
                           .expected_from = expected.from,
                           .compared_with = std::move(expected.compared_with),
                           .warning = std::move(expected.warning),
                           .may_map = std::move(opened.may_map)};
  const uint64_t keys =
      std::max(index->tensors().size() + index->index_only_keys().size() + index->absent_keys().size(),
               expected.manifest == nullptr ? 0 : expected.manifest->tensors.size());
  KEYLOAD_RETURN_IF_ERROR(context.TakeHeap(keys * kPlanningBytesPerKey, kKeyTables));
  KEYLOAD_ASSIGN_OR_RETURN(prepared.keys, Reconcile({.index = index,
                                                     .manifest = expected.manifest,
                                                     .rules = spec.rules,
                                                     .selection = &selection,
                                                     .widened = widened,
                                                     .context = &context}));
  HeapCharge charge(sources.documents.account());
  KEYLOAD_RETURN_IF_ERROR(charge.Resize(MemoryBytes(*prepared.keys) + keys * kPlanBytesPerKey, kKeyTables));
  prepared.keys = WithCharge(std::move(prepared.keys), std::move(charge));
  if (prepared.expected_from == ExpectedFrom::kLike) {
    KEYLOAD_ASSIGN_OR_RETURN(prepared.findings, CompareDTypes(*prepared.keys, prepared.compared_with, context));
  } else if (audit && prepared.expected_from == ExpectedFrom::kCheckpoint && selection.selects_all()) {
    KEYLOAD_ASSIGN_OR_RETURN(prepared.findings, AuditKeys(spec, *index, sources, context));
  }
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
  KEYLOAD_ASSIGN_OR_RETURN(
      result.report, MakePlanReport(spec, prepared, input, result.placement, *result.plan, devices, node, context));
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
