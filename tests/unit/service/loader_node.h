#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/base/mutex.h"
#include "server/lifecycle/model_registry.h"
#include "server/service/loader_service.h"
#include "tests/support/checkpoint_builder.h"
#include "tests/support/fake_device.h"
#include "tests/support/faulty_reader.h"
#include "tests/support/read_gate.h"

namespace keyload {

// All keys that a cursor over `model` gives.
std::vector<ListedKey> ListedKeys(const ModelHandle& model, KeySelection selection = KeySelection(),
                                  KeyCursor::Of of = KeyCursor::Of::kAll);

// Remembers what it hears about one load. Thread-safe.
class RecordingObserver : public LoadObserver {
 public:
  void OnAccepted(const std::string& load, bool joined) override;
  void OnPlanned(const LoadReport& report) override;
  void OnProgress(const LoadProgress& progress) override;
  void OnEnd(absl::StatusOr<LoadReport> result) override;

  // Blocks until the end was told.
  absl::StatusOr<LoadReport> WaitForEnd();
  // Of the progress that was told last; empty before.
  std::string last_phase() const;
  // Blocks until progress is told once more. REQUIRES: the load is held in its transfer.
  void WaitForProgress();
  // "accepted", "joined", "planned", "end"; progress is left out, but counted as an error after the end.
  std::vector<std::string> events() const;

 private:
  void Add(std::string event);

  mutable Mutex mutex_;
  CondVar changed_;
  uint64_t progress_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string last_phase_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> events_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::StatusOr<LoadReport>> end_ ABSL_GUARDED_BY(mutex_);
};

// A node without gRPC: "cpu" and one fake GPU, real files below dir().
class LoaderNode {
 public:
  struct Options {
    uint64_t gpu_bytes = 64ull << 20;
    uint64_t fail_allocation = 0;  // as in FakeDevice::Options
    size_t load_threads = 1;
    size_t load_queue = 8;
    uint64_t max_document_bytes = 1 << 20;
    uint64_t request_memory = 64 << 20;
    uint64_t hold_bytes = 0;  // of page cache
  };
  LoaderNode() : LoaderNode(Options()) {}
  explicit LoaderNode(const Options& options);
  // Lets held copies go and waits for loads.
  ~LoaderNode();

  const std::string& dir() const { return dir_.path(); }
  LoaderService& service() { return *service_; }
  ModelRegistry& registry() { return registry_; }
  DocumentStore& documents() { return documents_; }
  FakeDevice& gpu() { return *gpu_; }
  LoadQueue& loads() { return *loads_; }
  Metrics& metrics() { return metrics_; }
  HoldBudget& held() { return held_; }
  // Blocks until a thread that reads for loads has nothing to do. A load whose copies are held keeps all of them
  // waiting for scratch memory, unless it has ended its reading.
  void WaitForIdleReader();
  // Readers that loads have asked for: no reader, no read.
  int readers_made() const { return readers_made_; }
  // Through which all shards are read.
  ReadGate& reads() { return reads_; }
  // From now on the bytes of the shard `file` fail like this.
  void SetFaults(const std::string& file, const FaultyReader::Faults& faults);
  void ClearFaults();

  // A request for the checkpoint in dir(), on the GPU.
  LoadSpec Spec(const std::string& model = "m") const;

  struct Started {
    std::shared_ptr<RecordingObserver> observer;
    std::shared_ptr<LoadTicket> ticket;
  };
  Started Start(LoadSpec spec, Deadline deadline = Deadline::Never());
  absl::StatusOr<LoadReport> Load(LoadSpec spec) { return Start(std::move(spec)).observer->WaitForEnd(); }
  // Makes keys of "m" resident, or lazy again; what the service answers.
  absl::StatusOr<LoadReport> Materialize(const KeySelectionSpec& select, const RequestContext& context = {},
                                         const Limits& limits = {});
  absl::StatusOr<Residency::Evicted> Evict(const KeySelectionSpec& select);
  // Unloads and waits until the memory is free.
  absl::StatusOr<ModelRegistry::Unloaded> Unload(const std::string& model);
  // The bytes of one key; empty when it cannot be read.
  std::string ReadKey(const std::string& model, const std::string& key);

 private:
  std::unique_ptr<ShardReader> MakeReader(const Shard& shard);

  TempDir dir_;
  Metrics metrics_{{.methods = {"GetModel", "WatchModels"}, .build = {}}};
  FakeDevice* gpu_;
  DeviceSet devices_;
  ByteBudget scratch_{256ull << 20};
  HoldBudget held_;
  ModelRegistry registry_;
  DocumentStore documents_;
  CurrentRoots roots_;
  std::atomic<int> readers_made_ = 0;
  ReadGate reads_;
  Mutex mutex_;
  std::map<std::string, FaultyReader::Faults> faults_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Executor> io_;
  std::unique_ptr<LoadQueue> loads_;
  std::unique_ptr<Executor> queries_;
  std::unique_ptr<LoaderService> service_;
};

// A manifest in which every key is an F32 tensor of `shape`.
std::shared_ptr<const Manifest> ManifestOf(const std::vector<std::string>& keys, const Shape& shape,
                                           const std::vector<TiedGroup>& tied = {});

// The manifest format of these tests: key names, one a line, each an F32 scalar; "!" is no manifest.
absl::StatusOr<std::shared_ptr<const Manifest>> ParseLines(std::string_view bytes);

}  // namespace keyload
