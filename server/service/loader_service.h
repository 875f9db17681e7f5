#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "server/base/executor.h"
#include "server/base/mutex.h"
#include "server/base/request_context.h"
#include "server/checkpoint/current_roots.h"
#include "server/lifecycle/model_registry.h"
#include "server/load/transfer.h"
#include "server/metrics/metrics.h"
#include "server/service/device_map_table.h"
#include "server/service/document_store.h"
#include "server/service/kept_state.h"
#include "server/service/load_observer.h"
#include "server/service/load_queue.h"
#include "server/service/load_spec.h"
#include "server/service/load_table.h"
#include "server/service/model_keys.h"
#include "server/service/prepare.h"
#include "server/service/publish.h"

namespace keyload {

// Which keys of a loaded model a call is about.
struct ModelSelection {
  std::string model;
  KeySelectionSpec select;
  std::string key_list_digest;  // names added to select.keys
};

// The use cases of the daemon, without gRPC. Thread-safe.
class LoaderService {
 public:
  // Everything outlives the service.
  struct Dependencies {
    const CurrentRoots* roots = nullptr;
    DocumentStore* documents = nullptr;
    ModelRegistry* registry = nullptr;
    HoldBudget* held = nullptr;         // of page cache that is kept locked
    LoadQueue* loads = nullptr;         // as many loads at a time as it has threads
    Executor* queries = nullptr;        // plans and what else may block on a file and is no load
    HeaderReading headers;              // how checkpoints are opened
    StorageThreads* storage = nullptr;  // where they are opened; null: on the thread that needs them
    TemplateDirectories templates;      // that expected keys come from
    TransferResources transfer;
    KeptState* state = nullptr;  // what outlives the process; null: nothing does
    Metrics* metrics = nullptr;  // that loads and what is done to models count in
  };
  // Takes over the maps and reports that the run before kept.
  explicit LoaderService(const Dependencies& dependencies);

  // Loads the models that the run before kept, as loads of their own, and returns: lazily, so that they are known and
  // their bytes are read on first need, or as they were asked for. Those of one mount come one after the other, those
  // of several mounts at the same time. One that fails is logged, and tried again by the next run. To be called once;
  // nothing to do without state.
  void RestoreModels(bool lazily);

  // Starts a load and returns; the observer hears the rest, OnEnd exactly once. `ticket` is how the caller leaves or
  // cancels; null: it never does. A request joins the load that it repeats: one with its request id, or one that runs
  // and was asked for the same but for request id and detach. Never blocks on files or devices. Errors without a
  // plan: BAD_REQUEST, REQUEST_ID_REUSED, MODEL_EXISTS, MODEL_BUSY, LOAD_QUEUE_FULL, DRAINING, and all that
  // PrepareKeys and PreparePlan name. `caller` is named in the log of a load that it starts; null: nobody asked.
  void StartLoad(LoadSpec spec, Deadline deadline, std::shared_ptr<LoadObserver> observer,
                 std::shared_ptr<LoadTicket> ticket = nullptr, std::shared_ptr<const Caller> caller = nullptr);
  // Loads that run or ended lately; LOAD_NOT_FOUND. Those that materialised keys are among them once they have ended.
  absl::StatusOr<std::shared_ptr<SharedLoad>> FindLoad(std::string_view load) const { return table_.Find(load); }
  absl::StatusOr<std::shared_ptr<SharedLoad>> FindLoadByRequestId(std::string_view request_id) const {
    return table_.FindByRequestId(request_id);
  }
  absl::StatusOr<std::vector<std::shared_ptr<SharedLoad>>> ListLoads(std::string_view after, size_t most) const {
    return table_.List(after, most);
  }
  // Stops every load that runs, detached ones too.
  void StopLoads();
  // Decides everything and stops there. Blocks on files: call it from an executor.
  absl::StatusOr<LoadReport> Plan(LoadSpec spec, const RequestContext& context);

  // Makes the selected keys resident, each once however many ask; see MakeResident. What is placed on "disk" stays
  // lazy. `clock` began when the call came. Blocks: call it on loads(). REJECTED when a limit is passed, else
  // COMPLETE or, with keys missing or mismatched, INCOMPLETE; counts are over the selection, bytes those of this
  // call. MODEL_NOT_FOUND, MODEL_BUSY, DRAINING, and what SelectTensors and MakeResident return.
  absl::StatusOr<LoadReport> Materialize(const ModelSelection& selection, const Limits& limits,
                                         const RequestContext& context, PhaseClock& clock);
  // Makes the selected keys lazy again; see Residency::Evict. The model's generation stays. Blocks while memory is
  // given back. MODEL_NOT_FOUND, MODEL_BUSY and what SelectTensors returns.
  absl::StatusOr<Residency::Evicted> Evict(const ModelSelection& selection, const RequestContext& context = {});
  // For who is about to open `keys` one after the other: makes the lazy ones of the first few resident with one call,
  // so that neighbours are read together. Returns how many keys those are, lazy or not; at least one unless there are
  // none. Blocks. What fails is left to OpenTensor, which knows the key that it was asked for.
  size_t ReadAhead(const ResidentModel& model, std::span<const uint32_t> keys, const RequestContext& context);
  // The bytes of a key of `model` to read; a lazy key is made resident first, unless it is placed on "disk". Blocks.
  // REQUIRES: model.CheckHasBytes(key).ok().
  absl::StatusOr<TensorBytes> OpenTensor(const ResidentModel& model, uint32_t key, const RequestContext& context);

  // Frees a model; see ModelRegistry::Unload. Blocks while memory is given back: call it from an executor.
  absl::Status Unload(std::string_view model, ModelRegistry::OnUnloaded done,
                      std::shared_ptr<const Caller> caller = nullptr);

  // What this server can do, for clients newer or older than it: "dtype_conversion", "simulated_gpus" ...
  std::vector<std::string> Capabilities() const;
  // Limits by name, in the units of the name: "document_bytes", "name_limit" ...
  std::vector<std::pair<std::string, uint64_t>> LimitValues() const;

  ModelRegistry& registry() { return *deps_.registry; }
  LoadQueue& loads() { return *deps_.loads; }
  DocumentStore& documents() { return *deps_.documents; }
  // For all that requests bring, and that work on them makes.
  const std::shared_ptr<HeapAccount>& request_memory() const { return deps_.documents->account(); }
  const DeviceMapTable& device_maps() const { return device_maps_; }
  // As the table's, and kept over a restart. Block on files.
  absl::StatusOr<NamedDeviceMap> SetDeviceMap(NamedDeviceMap map, const Caller* caller = nullptr);
  absl::Status DeleteDeviceMap(std::string_view name, std::string_view etag, const Caller* caller = nullptr);
  DeviceSet& devices() { return *deps_.transfer.devices; }
  std::shared_ptr<const ModelRoots> roots() const { return deps_.roots->get(); }

  // From now on new loads and plans get DRAINING. Loads that run go on.
  void Drain();
  bool draining() const { return draining_; }
  // Loads that are queued or running.
  size_t active_loads() const { return active_loads_; }

  // Mounts that do not answer now. Never blocks.
  std::vector<StuckMount> StuckStorage() const;

  Metrics& metrics() { return *deps_.metrics; }
  // What a scrape shows of loads, models and devices. Never blocks.
  Metrics::Sample SampleMetrics() const;

 private:
  struct Request {
    LoadSpec spec;
    Deadline deadline;
    std::shared_ptr<LoadObserver> observer;
    std::shared_ptr<LoadTicket> ticket;    // null: the caller never leaves
    std::shared_ptr<const Caller> caller;  // null: nobody
  };
  struct Job;
  struct Start;
  class Restoring;

  absl::Status Validate(const LoadSpec& spec, bool plan_only) const;
  absl::StatusOr<Start> BeginLoad(const Request& request, const SharedLoad::Waiter& waiter);
  absl::StatusOr<ModelRegistry::Claim> BeginExtend(const LoadSpec& spec, ModelHandle& model);
  absl::StatusOr<ModelRegistry::Claim> ClaimName(const LoadSpec& spec, ModelHandle& extends);
  void StartValid(Request request);
  void AnswerWithModel(Request request);
  // Ends a request that becomes no load.
  void Refuse(LoadObserver& observer, const absl::Status& status);
  absl::Status MaterializeInto(LoadReport& report, const ModelSelection& selection, const Limits& limits,
                               const RequestContext& context, PhaseClock& clock);
  void Queue(const std::shared_ptr<Job>& job);
  void FailJob(Job& job, const absl::Status& thrown);
  KeySources Sources() const;
  absl::StatusOr<LoadReport> Reuse(const LoadSpec& spec, const RequestContext& context) const;
  void RunJob(const std::shared_ptr<Job>& job, LoadQueue::Turn turn);
  // Queues the job for memory when that is what it lacks and may wait for; else ends it.
  void WaitOrFinish(const std::shared_ptr<Job>& job, absl::Status planned);
  void FinishJob(Job& job, absl::StatusOr<LoadReport> result);
  void KeepEnd(const SharedLoad& load, const absl::StatusOr<LoadReport>& result);
  void EndJob(Job& job, absl::StatusOr<LoadReport> result);
  void Publish(Job& job, ResidentModel::Content content);
  // Fills in the job's keys, plan and reservations.
  absl::Status PlanAndReserve(Job& job);
  absl::Status PlaceAndReserve(Job& job, const RequestContext& context);
  void TellPlan(Job& job);
  bool MayWaitForMemory(const Job& job, const absl::Status& refused) const;
  // The rest, after PlanAndReserve, or the waiting for memory, ended with `status`.
  absl::StatusOr<LoadReport> LoadPlanned(Job& job, absl::Status status);
  // The tensors that the plan loads, or for a lazy load the memory that it keeps for them.
  absl::StatusOr<LoadedTensors> LoadTensors(Job& job, const PreparedKeys& keys, const LoadPlan& plan,
                                            std::vector<MemoryReservation> reservations, LoadReport& report);
  absl::Status LoadAndPublish(Job& job, const PreparedKeys& keys, PreparedPlan plan,
                              std::vector<MemoryReservation> reservations, LoadReport& report);

  const Dependencies deps_;
  std::atomic<bool> draining_ = false;
  std::atomic<size_t> active_loads_ = 0;
  LoadTable table_;
  DeviceMapTable device_maps_;
  std::vector<KeptState::Model> to_restore_;  // until RestoreModels
  Mutex start_mutex_;  // over looking for a load to join or claiming the name, and over ending that: one or the other
};

}  // namespace keyload
