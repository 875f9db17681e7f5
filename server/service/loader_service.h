#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "server/base/executor.h"
#include "server/base/mutex.h"
#include "server/base/request_context.h"
#include "server/lifecycle/model_registry.h"
#include "server/load/transfer.h"
#include "server/service/document_store.h"
#include "server/service/load_spec.h"
#include "server/service/prepare.h"

namespace keyload {

// Hears about one load. Calls come one after the other, from threads of the service; they must be short. OnEnd is the
// last.
class LoadObserver {
 public:
  virtual ~LoadObserver() = default;
  virtual void OnAccepted(const std::string& load, bool joined) = 0;
  virtual void OnPlanned(const LoadReport& report) = 0;
  virtual void OnProgress(const LoadProgress& progress) = 0;
  // A report, also for CANCELLED and FAILED; a status when the load never got a plan.
  virtual void OnEnd(absl::StatusOr<LoadReport> result) = 0;
};

// The use cases of the daemon, without gRPC. Thread-safe.
class LoaderService {
 public:
  // Everything outlives the service.
  struct Dependencies {
    const ModelRoots* roots = nullptr;
    DocumentStore* documents = nullptr;
    ModelRegistry* registry = nullptr;
    Executor* loads = nullptr;  // as many loads at a time as it has threads
    HeaderReading headers;      // how checkpoints are opened
    TransferResources transfer;
  };
  explicit LoaderService(const Dependencies& dependencies) : deps_(dependencies) {}

  // Starts a load and returns; the observer hears the rest, OnEnd exactly once. Never blocks on files or devices.
  // Errors without a plan: BAD_REQUEST, MODEL_EXISTS, MODEL_BUSY, LOAD_QUEUE_FULL, DRAINING, and all that PrepareKeys
  // and PreparePlan name.
  void StartLoad(LoadSpec spec, const RequestContext& context, std::shared_ptr<LoadObserver> observer);
  // Decides everything and stops there. Blocks on files: call it from an executor.
  absl::StatusOr<LoadReport> Plan(const LoadSpec& spec, const RequestContext& context);

  // Frees a model; see ModelRegistry::Unload. Blocks: call it from an executor.
  absl::StatusOr<ModelRegistry::Unloaded> Unload(std::string_view model, const RequestContext& context);

  // What this server can do, for clients newer or older than it: "dtype_conversion", "simulated_gpus" ...
  std::vector<std::string> Capabilities() const;
  // Limits by name, in the units of the name: "document_bytes", "name_limit" ...
  std::vector<std::pair<std::string, uint64_t>> LimitValues() const;

  ModelRegistry& registry() { return *deps_.registry; }
  DocumentStore& documents() { return *deps_.documents; }
  DeviceSet& devices() { return *deps_.transfer.devices; }
  const ModelRoots& roots() const { return *deps_.roots; }

  // From now on new loads and plans get DRAINING. Loads that run go on.
  void Drain() { draining_ = true; }
  bool draining() const { return draining_; }
  // Loads that are queued or running.
  size_t active_loads() const { return active_loads_; }

 private:
  struct Job;

  absl::Status Validate(const LoadSpec& spec, bool plan_only) const;
  absl::StatusOr<LoadReport> Reuse(const LoadSpec& spec) const;
  void RunJob(Job& job);
  absl::StatusOr<LoadReport> RunLoad(Job& job);
  absl::Status PlanAndReserve(Job& job, const PreparedKeys& keys, PreparedPlan& plan,
                              std::vector<MemoryReservation>& reservations);
  absl::Status TransferAndPublish(Job& job, const PreparedKeys& keys, PreparedPlan plan,
                                  std::vector<MemoryReservation> reservations, LoadReport& report);

  const Dependencies deps_;
  std::atomic<bool> draining_ = false;
  std::atomic<size_t> active_loads_ = 0;
  std::atomic<uint64_t> last_load_ = 0;
};

}  // namespace keyload
