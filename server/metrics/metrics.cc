#include "server/metrics/metrics.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/base/mutex.h"
#include "server/base/strings.h"
#include "server/metrics/metric_families.h"
#include "server/metrics/process_values.h"

namespace keyload {
namespace {

enum class End { kComplete, kIncomplete, kRejected, kCancelled, kFailed, kError };

const std::vector<std::string>& EndLabels() {
  static const std::vector<std::string> labels = {"complete", "incomplete", "rejected", "cancelled", "failed", "error"};
  return labels;
}

End EndOf(const absl::StatusOr<LoadReport>& result) {
  const Reason reason = ErrorReason(result.ok() ? result->error : result.status());
  if (!result.ok()) {
    return reason == Reason::kLoadCancelled || reason == Reason::kDeadlineExceeded ? End::kCancelled : End::kError;
  }
  switch (result->outcome) {
    case Outcome::kPlanned:
    case Outcome::kComplete:
      return End::kComplete;
    case Outcome::kIncomplete:
      return End::kIncomplete;
    case Outcome::kRejected:
      return End::kRejected;
    case Outcome::kCancelled:
      return End::kCancelled;
    case Outcome::kFailed:
      return End::kFailed;
  }
  return End::kError;
}

size_t Index(auto value) { return static_cast<size_t>(value); }

constexpr Reason kRefusals[] = {Reason::kTokenMissing, Reason::kTokenInvalid, Reason::kRoleInsufficient};

std::vector<std::string> RefusalLabels() {
  std::vector<std::string> labels;
  for (const Reason reason : kRefusals) labels.push_back(absl::AsciiStrToLower(ToAbsl(ReasonName(reason))));
  return labels;
}

enum class BytePath { kRead, kCached, kMapped };
enum class MapChange { kSet, kDelete };
enum class LogKind { kLog, kAudit };

constexpr size_t kMostMounts = 16;  // that have a label of their own

}  // namespace

// Everything that is shown, and what is looked up before it is.
class Metrics::Page : public prometheus::Collectable {
 public:
  explicit Page(const Options& options) : calls(registry, options.methods) {
    prometheus::BuildGauge()
        .Name("keyload_build_info")
        .Help("1; what was built is in the labels.")
        .Register(registry)
        .Add(options.build)
        .Set(1);
    start_time_.Set(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  }

  std::vector<prometheus::MetricFamily> Collect() const override {
    {
      MutexLock lock(mutex_);
      LookUp();
    }
    return registry.Collect();
  }

  void SetSampler(Sampler sampler) {
    MutexLock lock(mutex_);
    sampler_ = std::move(sampler);
    LookUp();
  }

  void AddBytes(const ByteCounts& counts) {
    const uint64_t cached = std::min(counts.cached, counts.read);
    bytes[Index(BytePath::kRead)].Increment(static_cast<double>(counts.read - cached));
    bytes[Index(BytePath::kCached)].Increment(static_cast<double>(cached));
    bytes[Index(BytePath::kMapped)].Increment(static_cast<double>(counts.mapped));
  }

  prometheus::Registry registry;

  prometheus::Counter& loads_started = MakeCounter(registry, "keyload_load_requests_started_total",
                                                   "Loads that began, and requests to load that were refused.");
  LabelledCounters loads_ended{registry, "keyload_load_requests_total",
                               "Loads that ended, and requests that were refused, by outcome.", "outcome", EndLabels()};
  prometheus::Counter& loads_joined =
      MakeCounter(registry, "keyload_load_requests_joined_total",
                  "Requests to load that were answered by another load or by the loaded model.");
  PhaseHistograms phases{registry};
  LabelledCounters bytes{registry,
                         "keyload_loaded_bytes_total",
                         "Tensor bytes that were loaded, by where they came from: read from storage, read from the "
                         "page cache, or mapped and not read.",
                         "path",
                         {"read", "cached", "mapped"}};
  prometheus::Counter& keys_expected =
      MakeCounter(registry, "keyload_keys_expected_total", "Keys that the models of ended loads should have.");
  prometheus::Counter& keys_missing =
      MakeCounter(registry, "keyload_keys_missing_total", "Expected keys that were not in the checkpoint.");
  prometheus::Counter& keys_unexpected =
      MakeCounter(registry, "keyload_keys_unexpected_total", "Keys of checkpoints that nobody expected.");
  prometheus::Counter& keys_mismatched =
      MakeCounter(registry, "keyload_keys_mismatched_total", "Keys with another shape or dtype than expected.");
  prometheus::Counter& materializations_started =
      MakeCounter(registry, "keyload_materializations_started_total", "Calls that began to make lazy keys resident.");
  LabelledCounters materializations_ended{registry, "keyload_materializations_total",
                                          "Calls that made lazy keys resident and ended, by outcome.", "outcome",
                                          EndLabels()};
  prometheus::Counter& evictions =
      MakeCounter(registry, "keyload_evictions_total", "Calls that made keys of a model lazy.");
  prometheus::Counter& evicted_bytes =
      MakeCounter(registry, "keyload_evicted_bytes_total", "Bytes of device memory that were given up by evictions.");
  prometheus::Counter& unloads = MakeCounter(registry, "keyload_unloads_total", "Models that were unloaded.");
  prometheus::Counter& unloaded_bytes =
      MakeCounter(registry, "keyload_unloaded_bytes_total", "Bytes of device memory that were freed by unloading.");
  LabelledCounters map_changes{registry,
                               "keyload_device_map_changes_total",
                               "Changes of device maps kept by name.",
                               "change",
                               {"set", "delete"}};

  CallFamilies calls;
  prometheus::Gauge& open_calls = MakeGauge(registry, "keyload_open_calls", "Calls that are open now.");

  LabelledCounters authentication_failures{registry, "keyload_authentication_failures_total",
                                           "Calls that were refused for who called, by reason.", "reason",
                                           RefusalLabels()};
  prometheus::Counter& connections_refused = MakeCounter(
      registry, "keyload_connections_refused_total", "Connections to a Unix socket that were refused for their user.");

 private:
  // Sets what is not told but looked up.
  void LookUp() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const ProcessValues process = ReadProcessValues();
    resident_bytes_.Set(static_cast<double>(process.resident_bytes));
    open_fds_.Set(static_cast<double>(process.open_fds));
    cpu_seconds_.Increment(process.cpu_seconds - cpu_seconds_.Value());
    if (!sampler_) return;
    const Sample sample = sampler_();
    inflight_loads_.Set(static_cast<double>(sample.inflight_loads));
    queue_depth_.Set({{"waits_for", "thread"}}, static_cast<double>(sample.waiting_for_thread));
    queue_depth_.Set({{"waits_for", "memory"}}, static_cast<double>(sample.waiting_for_memory));
    for (const DeviceMemory& memory : sample.devices) {
      const std::pair<const char*, uint64_t> kinds[] = {
          {"capacity", memory.capacity}, {"used", memory.used}, {"reserved", memory.reserved}, {"free", memory.free}};
      for (const auto& [kind, value] : kinds) {
        device_memory_.Set({{"device", memory.device}, {"kind", kind}}, static_cast<double>(value));
      }
    }
    for (const auto& [state, count] : sample.models) {
      models_.Set({{"state", absl::AsciiStrToLower(ToAbsl(state))}}, static_cast<double>(count));
    }
    SetTotal(log_lines_lost_[Index(LogKind::kLog)], sample.lost_log_lines);
    SetTotal(log_lines_lost_[Index(LogKind::kAudit)], sample.lost_audit_lines);
    for (auto& [mount, count] : stuck_) count = 0;
    for (const auto& [mount, count] : sample.stuck_storage) {
      const bool has_label = stuck_.contains(mount) || stuck_.size() < kMostMounts;
      stuck_[has_label ? mount : std::string(kOtherLabel)] += count;
    }
    for (const auto& [mount, count] : stuck_) storage_stuck_.Set({{"mount", mount}}, static_cast<double>(count));
    if (!sample.tls) return;
    tls_expiry_.Set(absl::ToDoubleSeconds(sample.tls->expiry - absl::UnixEpoch()));
    tls_current_.Set(sample.tls->current ? 1 : 0);
    SetTotal(tls_reload_failures_, sample.tls->reload_failures);
  }

  static void SetTotal(prometheus::Counter& counter, uint64_t total) {
    counter.Increment(static_cast<double>(total) - counter.Value());
  }

  prometheus::Gauge& inflight_loads_ = MakeGauge(registry, "keyload_inflight_loads", "Loads that wait or run now.");
  mutable LabelledGauges queue_depth_{registry, "keyload_load_queue_depth",
                                      "What waits now for a thread of loads or for device memory."};
  mutable LabelledGauges device_memory_{
      registry, "keyload_device_memory_bytes",
      "Memory of a device: what keyload may use, uses, has reserved, and has free of it."};
  mutable LabelledGauges models_{registry, "keyload_models", "Models by state."};
  prometheus::Gauge& start_time_ =
      MakeGauge(registry, "process_start_time_seconds", "When the daemon started, in seconds since 1970.");
  prometheus::Gauge& resident_bytes_ =
      MakeGauge(registry, "process_resident_memory_bytes", "Resident memory of the daemon, mapped weights included.");
  prometheus::Gauge& open_fds_ = MakeGauge(registry, "process_open_fds", "Open file descriptors of the daemon.");
  prometheus::Counter& cpu_seconds_ =
      MakeCounter(registry, "process_cpu_seconds_total", "User and system time of the daemon.");

  prometheus::Gauge& tls_expiry_ =
      MakeGauge(registry, "keyload_tls_certificate_expiry_timestamp_seconds",
                "When the certificate that is served expires, in seconds since 1970; 0 without TLS.");
  prometheus::Gauge& tls_current_ =
      MakeGauge(registry, "keyload_tls_certificate_current",
                "1 while the certificate that is served is the one on the disk; 0 also without TLS.");
  prometheus::Counter& tls_reload_failures_ =
      MakeCounter(registry, "keyload_tls_reload_failures_total",
                  "New certificates that could not be used; the last good one stays.");

  LabelledCounters log_lines_lost_{registry,
                                   "keyload_log_lines_lost_total",
                                   "Lines of the log that nobody can read: its reader was too slow, or gone.",
                                   "kind",
                                   {"log", "audit"}};
  mutable LabelledGauges storage_stuck_{
      registry, "keyload_storage_operations_stuck",
      "Operations on files that have not ended for two seconds, by mount; only mounts that had some."};

  mutable Mutex mutex_;  // held while a sampler is called
  Sampler sampler_ ABSL_GUARDED_BY(mutex_);
  mutable std::map<std::string, uint64_t> stuck_ ABSL_GUARDED_BY(mutex_) = {{"/", 0}};  // by the label of a mount
};

Metrics::Metrics(const Options& options) : page_(std::make_shared<Page>(options)) {}

Metrics::~Metrics() { SetSampler(nullptr); }

void Metrics::LoadStarted() { page_->loads_started.Increment(); }

void Metrics::LoadEnded(const absl::StatusOr<LoadReport>& result) {
  page_->loads_ended[Index(EndOf(result))].Increment();
  if (!result.ok()) return;
  std::map<std::string_view, absl::Duration> phases;  // one may be entered more than once
  for (const Phase& phase : result->phases) phases[phase.name] += phase.duration;
  for (const auto& [name, duration] : phases) page_->phases.Find(name).Observe(absl::ToDoubleSeconds(duration));
  page_->phases.total().Observe(absl::ToDoubleSeconds(result->total));
  page_->keys_expected.Increment(static_cast<double>(result->keys.expected));
  page_->keys_missing.Increment(static_cast<double>(result->keys.missing));
  page_->keys_unexpected.Increment(static_cast<double>(result->keys.unexpected));
  page_->keys_mismatched.Increment(static_cast<double>(result->keys.mismatched));
  page_->AddBytes(result->bytes);
}

void Metrics::LoadRefused() {
  page_->loads_started.Increment();
  page_->loads_ended[Index(End::kError)].Increment();
}

void Metrics::LoadJoined() { page_->loads_joined.Increment(); }

void Metrics::MaterializationStarted() { page_->materializations_started.Increment(); }

void Metrics::MaterializationEnded(const absl::StatusOr<LoadReport>& result) {
  page_->materializations_ended[Index(EndOf(result))].Increment();
}

void Metrics::BytesLoaded(const ByteCounts& bytes) { page_->AddBytes(bytes); }

void Metrics::Evicted(uint64_t bytes) {
  page_->evictions.Increment();
  page_->evicted_bytes.Increment(static_cast<double>(bytes));
}

void Metrics::Unloaded(uint64_t bytes) {
  page_->unloads.Increment();
  page_->unloaded_bytes.Increment(static_cast<double>(bytes));
}

void Metrics::DeviceMapSet() { page_->map_changes[Index(MapChange::kSet)].Increment(); }

void Metrics::DeviceMapDeleted() { page_->map_changes[Index(MapChange::kDelete)].Increment(); }

void Metrics::CallStarted(std::string_view method) {
  page_->calls.Find(method).started->Increment();
  page_->open_calls.Increment();
}

void Metrics::CallEnded(std::string_view method, absl::StatusCode code, absl::Duration duration) {
  const CallFamilies::Method& calls = page_->calls.Find(method);
  calls.ended[StatusCodeIndex(code)]->Increment();
  calls.duration->Observe(absl::ToDoubleSeconds(duration));
  page_->open_calls.Decrement();
}

void Metrics::AuthenticationFailed(Reason reason) {
  const auto it = std::find(std::begin(kRefusals), std::end(kRefusals), reason);
  if (it != std::end(kRefusals)) page_->authentication_failures[it - std::begin(kRefusals)].Increment();
}

void Metrics::ConnectionRefused() { page_->connections_refused.Increment(); }

void Metrics::SetSampler(Sampler sampler) { page_->SetSampler(std::move(sampler)); }

std::string Metrics::Text() const { return prometheus::TextSerializer().Serialize(page_->Collect()); }

std::shared_ptr<prometheus::Collectable> Metrics::page() const { return page_; }

}  // namespace keyload
