#include "server/service/loader_service.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/no_throw.h"
#include "server/base/retry.h"
#include "server/base/strings.h"
#include "server/keys/pattern_set.h"
#include "server/service/extend.h"
#include "server/service/load_job.h"
#include "server/service/model_name.h"
#include "server/service/page_cache_load.h"
#include "server/service/publish.h"
#include "server/service/same_model.h"
#include "server/tensor/convert.h"

namespace keyload {
namespace {

constexpr int kPlanAttempts = 3;
constexpr uint32_t kMaxNameLimit = 10'000;
constexpr size_t kMaxRequestId = 128;
constexpr size_t kMaxDevices = 1024;  // of a plan for other hardware, and of the limits of a policy

absl::Status BadField(std::string_view field, std::string_view what) {
  return MakeError(Reason::kBadRequest, StrCat(field, " ", what), {{"field", std::string(field)}});
}

absl::Status CheckPageCache(const LoadSpec& spec) {
  const bool lazy = spec.residency == LoadSpec::Residency::kLazy;
  if (lazy && spec.page_cache != LoadSpec::PageCache::kKeep)
    return BadField("spec.page_cache", "is for loads that read now: a LAZY one reads nothing");
  if (!spec.warms()) return absl::OkStatus();
  const DeviceMapSpec& map = spec.device_map;
  const bool in_files = map.policy.empty() || map.policy == "cpu" || map.policy == "disk";
  if (!in_files || !map.entries.empty() || !map.max_memory.empty())
    return BadField("spec.device_map", "must be empty, cpu or disk: WARM and HOLD leave every tensor in its file");
  if (spec.dtype) return BadField("spec.dtype", "must be empty: WARM and HOLD leave every tensor as it is in its file");
  if (spec.host_storage == HostStorage::kCopied)
    return BadField("spec.host_storage", "cannot be COPIED: WARM and HOLD keep no copy");
  return absl::OkStatus();
}

}  // namespace

LoaderService::LoaderService(const Dependencies& dependencies)
    : deps_(dependencies), table_({.first_number = deps_.state == nullptr ? 0 : deps_.state->first_number()}) {
  if (deps_.state == nullptr) return;
  KeptState::Content before = deps_.state->TakeBefore();
  for (const NamedDeviceMap& map : before.maps) device_maps_.Restore(map);
  for (KeptLoad& load : before.loads) {
    deps_.state->DropLoads(table_.Restore(load.identity, load.request_ids, std::move(load.result)));
  }
  to_restore_ = std::move(before.models);
}

absl::Status LoaderService::Validate(const LoadSpec& spec, bool plan_only) const {
  if (draining_) return Draining();
  if (!IsModelName(spec.model)) return BadField("spec.model", StrCat("must match ", kModelNamePattern));
  if (spec.request_id.size() > kMaxRequestId)
    return BadField("spec.request_id", StrCat("is over ", kMaxRequestId, " bytes"));
  if (spec.source.path.empty()) return BadField("spec.source.path", "is empty");
  if (spec.name_limit > kMaxNameLimit) return BadField("spec.name_limit", StrCat("is over ", kMaxNameLimit));
  KEYLOAD_RETURN_IF_ERROR(CheckPageCache(spec));
  if (spec.reserve_now && spec.residency != LoadSpec::Residency::kLazy)
    return BadField("spec.reserve", "is for LAZY loads only: an eager load always reserves first");
  if (!plan_only && !spec.plan_for.empty()) return BadField("spec.device_map.plan_for", "is for PlanLoad only");
  if (spec.plan_for.size() > kMaxDevices)
    return BadField("spec.device_map.plan_for", StrCat("has more than ", kMaxDevices, " devices"));
  if (spec.device_map.max_memory.size() > kMaxDevices)
    return BadField("spec.device_map.max_memory", StrCat("has more than ", kMaxDevices, " devices"));
  const ExpectedSpec& expected = spec.expected;
  const int manifests = (expected.manifest != nullptr ? 1 : 0) + (expected.manifest_digest.empty() ? 0 : 1) +
                        (expected.manifest_path.empty() ? 0 : 1);
  if (manifests > 1) return BadField("spec.expected", "names more than one manifest");
  if (expected.from == ExpectedSpec::From::kManifest && manifests == 0)
    return BadField("spec.expected.from", "is FROM_MANIFEST, but there is no manifest");
  if (expected.from == ExpectedSpec::From::kCheckpoint && manifests > 0)
    return BadField("spec.expected.from", "is FROM_CHECKPOINT, but a manifest is given");
  if (expected.from == ExpectedSpec::From::kConfig && manifests > 0)
    return BadField("spec.expected.from", "is FROM_CONFIG, but a manifest is given");
  if (expected.like && manifests > 0) return BadField("spec.expected", "names a manifest and another checkpoint");
  if (expected.like && expected.like->path.empty()) return BadField("spec.expected.like.path", "is empty");
  if (expected.from == ExpectedSpec::From::kLike && !expected.like)
    return BadField("spec.expected.from", "is FROM_LIKE, but no other checkpoint is given");
  if (expected.like && expected.from != ExpectedSpec::From::kDefault && expected.from != ExpectedSpec::From::kLike)
    return BadField("spec.expected.from", "is not FROM_LIKE, but another checkpoint is given");
  if (spec.dtype && !IsConvertible(*spec.dtype)) {
    return MakeError(Reason::kDtypeNotSupported,
                     StrCat("spec.dtype ", DTypeName(*spec.dtype),
                            " is none of F64, F32, F16 and BF16; leave it out for what is stored"),
                     {{"dtype", std::string(DTypeName(*spec.dtype))}});
  }
  if (spec.dtype && !DTypeConversionAvailable()) {
    return MakeError(
        Reason::kDtypeNotSupported,
        "this server was built without LibTorch and converts to none of F64, F32, F16 and BF16; leave spec.dtype "
        "out for what is stored",
        {{"dtype", std::string(DTypeName(*spec.dtype))}});
  }
  return absl::OkStatus();
}

absl::StatusOr<LoadReport> LoaderService::Plan(LoadSpec spec, const RequestContext& context) {
  KEYLOAD_RETURN_IF_ERROR(Validate(spec, /*plan_only=*/true));
  if (spec.warms()) spec.device_map.policy = "disk";
  PhaseClock clock;
  const absl::Time start_time = absl::Now();
  KEYLOAD_ASSIGN_OR_RETURN(const PreparedKeys keys,
                           PrepareKeys(spec, Sources(), context, clock, nullptr, /*audit=*/true));
  const std::vector<PlacementDevice> devices =
      spec.plan_for.empty() ? SnapshotDevices(*deps_.transfer.devices) : spec.plan_for;
  KEYLOAD_ASSIGN_OR_RETURN(PreparedPlan plan,
                           PreparePlan(spec, keys, devices, *deps_.transfer.devices, context, clock));
  LoadReport report = std::move(plan.report);
  report.outcome = ExceedsLimits(report.keys, spec.limits) ? Outcome::kRejected : Outcome::kPlanned;
  report.start_time = start_time;
  clock.Write(report);
  return report;
}

KeySources LoaderService::Sources() const {
  return {roots(), *deps_.documents, deps_.headers, deps_.templates, deps_.storage};
}

absl::StatusOr<LoadReport> LoaderService::Reuse(const LoadSpec& spec, const RequestContext& context) const {
  KEYLOAD_ASSIGN_OR_RETURN(const ModelHandle model, deps_.registry->Use(spec.model));
  KEYLOAD_RETURN_IF_ERROR(CheckSameRequest(*model, spec));
  KEYLOAD_RETURN_IF_ERROR(Sources().Touch(spec.source.path, context, [model] { return CheckSameFiles(*model); }));
  LoadReport report = model->report();
  report.keys = model->LiveKeys();
  report.devices = model->LiveDevices();
  if (ExceedsLimits(report.keys, spec.limits)) report.outcome = Outcome::kRejected;
  return report;
}

absl::Status LoaderService::Unload(std::string_view model, ModelRegistry::OnUnloaded done,
                                   std::shared_ptr<const Caller> caller) {
  const ModelRegistry::FreeingHere freeing_here;
  return deps_.registry->Unload(
      model,
      [metrics = deps_.metrics, model = std::string(model), done = std::move(done),
       caller](const ModelRegistry::Unloaded& unloaded) mutable {
        if (unloaded.was_loaded) {
          metrics->Unloaded(unloaded.freed_bytes);
          Log(LogLevel::kInfo, "unload", {{"model", model}, {"freed_bytes", unloaded.freed_bytes}}, caller.get());
        }
        done(unloaded);
      },
      [&, caller](uint64_t generation) {
        if (deps_.state != nullptr) deps_.state->DropModel(model, generation, caller.get());
      });
}

absl::StatusOr<NamedDeviceMap> LoaderService::SetDeviceMap(NamedDeviceMap map, const Caller* caller) {
  KEYLOAD_ASSIGN_OR_RETURN(NamedDeviceMap kept, device_maps_.Set(std::move(map)));
  deps_.metrics->DeviceMapSet();
  if (deps_.state != nullptr) deps_.state->SyncMap(device_maps_, kept.name, caller);
  return kept;
}

absl::Status LoaderService::DeleteDeviceMap(std::string_view name, std::string_view etag, const Caller* caller) {
  KEYLOAD_RETURN_IF_ERROR(device_maps_.Delete(name, etag));
  deps_.metrics->DeviceMapDeleted();
  if (deps_.state != nullptr) deps_.state->SyncMap(device_maps_, name, caller);
  return absl::OkStatus();
}

Metrics::Sample LoaderService::SampleMetrics() const {
  Metrics::Sample sample = {.inflight_loads = active_loads_,
                            .waiting_for_thread = deps_.loads->queued(),
                            .waiting_for_memory = deps_.loads->waiting_for_memory()};
  for (const std::unique_ptr<Device>& device : deps_.transfer.devices->devices()) {
    const MemoryState memory = device->account().state();
    sample.devices.push_back({.device = device->info().name,
                              .capacity = memory.capacity,
                              .used = memory.used,
                              .reserved = memory.reserved,
                              .free = memory.free()});
  }
  for (const StuckMount& mount : StuckStorage()) sample.stuck_storage.emplace_back(mount.mount, mount.operations);
  const std::array<uint64_t, kModelStateCount> counts = deps_.registry->CountStates();
  for (int state = 0; state < kModelStateCount; ++state) {
    // A model that is not loaded, or whose load failed, is none.
    const auto value = static_cast<ModelState>(state);
    if (value == ModelState::kUnloaded || value == ModelState::kFailed) continue;
    sample.models.emplace_back(ModelStateName(value), counts[state]);
  }
  return sample;
}

std::vector<StuckMount> LoaderService::StuckStorage() const {
  return deps_.storage == nullptr ? std::vector<StuckMount>() : deps_.storage->stuck();
}

std::vector<std::string> LoaderService::Capabilities() const {
  std::vector<std::string> capabilities = {"load",        "plan",       "read_tensors", "upload_document",
                                           "host_copies", "lazy",       "materialize",  "evict",
                                           "extend",      "warm",       "hold",         "request_id",
                                           "detach",      "watch_load", "watch_models", "device_maps",
                                           "replace",     "priority",   "wait_memory",  "expected_from_config"};
  if (DTypeConversionAvailable()) capabilities.emplace_back("dtype_conversion");
  const auto& devices = deps_.transfer.devices->devices();
  if (std::any_of(devices.begin(), devices.end(), [](const auto& device) { return device->info().simulated; })) {
    capabilities.emplace_back("simulated_gpus");
  }
  return capabilities;
}

std::vector<std::pair<std::string, uint64_t>> LoaderService::LimitValues() const {
  return {{"concurrent_loads", deps_.loads->threads()},
          {"load_queue", deps_.loads->limit()},
          {"checkpoint_keys", deps_.headers.max_keys},
          {"header_memory_bytes", deps_.headers.memory == nullptr ? 0 : deps_.headers.memory->limit()},
          {"manifest_tensors", kMaxManifestTensors},
          {"selection_globs", kMaxGlobs},
          {"selection_steps", kMaxSelectionSteps},
          {"rule_patterns", PatternBudget::kMostPatterns},
          {"rule_instructions", PatternBudget::kMostInstructions},
          {"rule_steps", PatternBudget::kMostSteps},
          {"load_callers", SharedLoad::kMostWaiters},
          {"load_request_ids", table_.options().request_ids},
          {"key_list_keys", deps_.documents->options().max_list_keys},
          {"uploads", deps_.documents->options().max_uploads},
          {"document_bytes", deps_.documents->options().max_document_bytes},
          {"request_memory_bytes", deps_.documents->options().max_total_bytes},
          {"name_limit", kMaxNameLimit}};
}

absl::Status LoaderService::PlanAndReserve(Job& job) {
  RequestContext context = job.load->context();
  context.heap = std::make_shared<RequestHeap>(request_memory());  // for as long as the planning takes
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  if (deps_.state != nullptr) {
    KEYLOAD_ASSIGN_OR_RETURN(job.spec, WithDocuments(std::move(job.spec), *deps_.documents));
  }
  KEYLOAD_ASSIGN_OR_RETURN(job.keys, PrepareKeys(job.spec, Sources(), context, job.clock,
                                                 job.extends == nullptr ? nullptr : job.extends->content().keys.get()));
  if (job.extends != nullptr) KEYLOAD_RETURN_IF_ERROR(CheckSameKeys(*job.extends, *job.keys.keys));
  return PlaceAndReserve(job, context);
}

absl::StatusOr<LoadReport> LoaderService::LoadPlanned(Job& job, absl::Status status) {
  const PreparedKeys keys = std::move(job.keys);
  PreparedPlan plan = std::move(job.plan);
  std::vector<MemoryReservation> reservations = std::move(job.reservations);
  if (!status.ok() && plan.plan == nullptr) return status;

  LoadReport report = plan.report;
  if (status.ok() && report.outcome != Outcome::kRejected) {
    status = NoThrow([&] { return LoadAndPublish(job, keys, std::move(plan), std::move(reservations), report); });
  }
  if (!status.ok()) {
    const Reason reason = ErrorReason(status);
    const bool cancelled = reason == Reason::kLoadCancelled || reason == Reason::kDeadlineExceeded;
    report.outcome = cancelled ? Outcome::kCancelled : Outcome::kFailed;
    report.error = status;
    report.generation = 0;
  }
  if (report.outcome != Outcome::kComplete && report.outcome != Outcome::kIncomplete) job.clock.Write(report);
  return report;
}

void LoaderService::TellPlan(Job& job) {
  LoadReport planned = job.plan.report;
  job.clock.Write(planned);
  job.load->Planned(planned);
}

bool LoaderService::MayWaitForMemory(const Job& job, const absl::Status& refused) const {
  if (ErrorReason(refused) != Reason::kDeviceOutOfMemory || job.plan.added == nullptr) return false;
  if (job.load->memory_wait() == absl::ZeroDuration()) return false;
  const LoadPlan& plan = *job.plan.added;
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    Device* const device = deps_.transfer.devices->Find(plan.devices[i]);
    if (device != nullptr && plan.reserve_bytes[i] > device->account().state().capacity) return false;
  }
  return true;
}

absl::Status LoaderService::PlaceAndReserve(Job& job, const RequestContext& context) {
  const PreparedKeys& keys = job.keys;
  PreparedPlan& plan = job.plan;
  std::vector<PlacementDevice> devices = SnapshotDevices(*deps_.transfer.devices);
  for (int attempt = 1;; ++attempt) {
    KEYLOAD_RETURN_IF_ERROR(context.Check());
    const DeviceSet& node = *deps_.transfer.devices;
    absl::StatusOr<PreparedPlan> prepared =
        job.extends == nullptr ? PreparePlan(job.spec, keys, devices, node, context, job.clock)
                               : PrepareExtension(job.spec, keys, *job.extends, devices, node, context, job.clock);
    if (!prepared.ok()) return prepared.status();
    plan = *std::move(prepared);
    plan.report.load = job.load->identity().load;
    plan.report.request_id = job.spec.request_id;
    plan.report.start_time = job.start_time;
    plan.report.outcome = ExceedsLimits(plan.report.keys, job.spec.limits) ? Outcome::kRejected : Outcome::kPlanned;
    if (plan.report.outcome == Outcome::kRejected) return absl::OkStatus();
    absl::StatusOr<std::vector<MemoryReservation>> reserved = std::vector<MemoryReservation>();
    if (job.spec.residency == LoadSpec::Residency::kEager || job.spec.reserve_now) {
      job.clock.Enter("reserve");
      reserved = job.load->memory_wait() > absl::ZeroDuration()
                     ? deps_.loads->Reserve(*plan.added, job.number, *job.load)
                     : ReserveForPlan(*plan.added, *deps_.transfer.devices);
    } else {
      for (size_t i = 0; i < plan.added_devices.size(); ++i) {
        plan.report.devices[i].reserved_bytes -= plan.added_devices[i].reserved_bytes;
      }
    }
    if (reserved.ok()) {
      job.reservations = *std::move(reserved);
      TellPlan(job);
      return absl::OkStatus();
    }
    if (attempt == kPlanAttempts || !IsPolicy(job.spec.device_map.policy)) return reserved.status();
    // The memory moved since the snapshot, or padding did not fit: place again, with less than now by what the plan was
    // over.
    std::vector<PlacementDevice> now = SnapshotDevices(*deps_.transfer.devices);
    for (PlacementDevice& device : now) {
      for (const DeviceUse& use : plan.added_devices) {
        const uint64_t needed = use.reserved_bytes;
        if (use.device != device.name || needed <= device.free_bytes) continue;
        const uint64_t placed = use.tensor_bytes + use.missing_bytes;
        device.free_bytes = placed - std::min(needed - device.free_bytes, placed);
      }
    }
    devices = std::move(now);
  }
}

absl::StatusOr<LoadedTensors> LoaderService::LoadTensors(Job& job, const PreparedKeys& keys, const LoadPlan& plan,
                                                         std::vector<MemoryReservation> reservations,
                                                         LoadReport& report) {
  DeviceSet& devices = *deps_.transfer.devices;
  LoadedTensors loaded;
  if (job.spec.residency == LoadSpec::Residency::kLazy) {
    KEYLOAD_ASSIGN_OR_RETURN(loaded.transferred.segments, AllocateSegments(*SubPlan(plan, {}), devices, reservations));
    loaded.reserved = std::move(reservations);
    return loaded;
  }
  job.clock.Enter("transfer");
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<Segment> segments, AllocateSegments(plan, devices, reservations));
  KEYLOAD_ASSIGN_OR_RETURN(loaded.transferred,
                           Transfer(
                               plan, *keys.keys->index, std::move(segments), deps_.transfer, job.load->context(),
                               [&](const LoadProgress& progress) { job.load->Progress(progress); }, report));
  if (job.spec.page_cache == LoadSpec::PageCache::kDrop) {
    DropRanges(*keys.keys->index, CopiedRanges(*keys.keys->index, plan), report);
  }
  if (job.spec.warms()) {
    const bool hold = job.spec.page_cache == LoadSpec::PageCache::kHold;
    KEYLOAD_ASSIGN_OR_RETURN(
        loaded.held,
        WarmRanges(
            *keys.keys, RangesInFiles(*keys.keys, plan, {}), hold ? deps_.held : nullptr, deps_.transfer,
            job.load->context(), [&](const LoadProgress& progress) { job.load->Progress(progress); }, report));
  }
  return loaded;
}

absl::Status LoaderService::LoadAndPublish(Job& job, const PreparedKeys& keys, PreparedPlan plan,
                                           std::vector<MemoryReservation> reservations, LoadReport& report) {
  if (job.extends != nullptr && !SelectsMore(*job.extends, *keys.keys)) {
    // The model lacks nothing and stays the generation that it is.
    report.generation = job.extends->report().generation;
    FinishReport(job.extends->content(), report);
    job.clock.Write(report);
    return absl::OkStatus();
  }
  absl::StatusOr<LoadedTensors> loaded = LoadTensors(job, keys, *plan.added, std::move(reservations), report);
  job.clock.Enter("publish");
  KEYLOAD_RETURN_IF_ERROR(loaded.status());
  report.generation = job.claim.generation();
  // Before anybody can unload it.
  const bool keeps = deps_.state != nullptr && !job.spec.is_kept;
  const Caller* const caller = job.load->context().caller.get();
  if (keeps) deps_.state->KeepModel(job.spec, report.generation, job.extends != nullptr, caller);
  const absl::Status published = NoThrow([&] {
    ResidentModel::Content content =
        job.extends == nullptr
            ? MakeModelContent(job.spec, keys, plan, *std::move(loaded), deps_.transfer.make_reader, report)
            : MakeExtendedContent(job.spec, keys, plan, *job.extends, *std::move(loaded), report);
    job.clock.Write(report);
    content.report = report;
    Publish(job, std::move(content));
  });
  if (published.ok()) return published;
  // There was no memory for it: what was there before is there alone.
  if (job.extends != nullptr) job.extends->residency().CutBack(job.extends->content().plan);
  if (keeps) deps_.state->TakeBack(job.spec.model, report.generation, job.extends != nullptr, caller);
  return published;
}

}  // namespace keyload
