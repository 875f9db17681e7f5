#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/service/device_map_table.h"
#include "server/service/load_spec.h"
#include "server/service/shared_load.h"
#include "server/state/state_directory.h"

namespace keyload {

class DocumentStore;

// A model of the last run: the request that made it, then those that made it wider.
struct KeptModel {
  std::string name;
  uint64_t generation = 0;
  std::vector<LoadSpec> requests;  // nothing in them names an uploaded document or a kept map
};

// A load that ended.
struct KeptLoad {
  LoadIdentity identity;
  std::vector<std::string> request_ids;  // that it answers
  absl::StatusOr<LoadReport> result;
};

// How the records are written. Reading one that makes no sense is an error of any kind.
class StateCodec {
 public:
  virtual ~StateCodec() = default;
  // Appended to another, it makes a record with the requests of both and the generation of the latter. `extends`: what
  // is expected is that of the first request, and left out.
  virtual std::string WriteModel(const LoadSpec& spec, uint64_t generation, bool extends) const = 0;
  virtual absl::StatusOr<KeptModel> ReadModel(std::string_view bytes) const = 0;
  virtual std::string WriteLoad(const KeptLoad& load) const = 0;
  virtual absl::StatusOr<KeptLoad> ReadLoad(std::string_view bytes) const = 0;
  virtual std::string WriteMap(const NamedDeviceMap& map) const = 0;
  virtual absl::StatusOr<NamedDeviceMap> ReadMap(std::string_view bytes) const = 0;
};

// What a daemon remembers over a restart, in files. Every change is on the disk when its call returns, except where a
// function says otherwise. A change that cannot be written is logged and no error of the request that made it: the
// daemon serves from memory. What was kept before stays when it is still true, and is removed when it is not. Blocks on
// files, and holds its locks meanwhile. `caller` is named in the log; null: nobody asked. Thread-safe.
class KeptState {
 public:
  ~KeptState();

  // A record that makes no sense is set aside and logged, one that cannot be read is logged. BAD_REQUEST or IO_ERROR:
  // the directory cannot be used.
  // `codec` outlives the state.
  static absl::StatusOr<std::unique_ptr<KeptState>> Open(const std::string& path, const StateCodec& codec);

  struct Model {
    std::string name;
    std::string path;  // of its source
  };
  // What was there when it was opened.
  struct Content {
    std::vector<Model> models;         // in the order of their names
    std::vector<KeptLoad> loads;       // in the order of their start
    std::vector<NamedDeviceMap> maps;  // by name
  };
  // Once; empty from then on.
  Content TakeBefore() { return std::exchange(before_, {}); }
  // Numbers of loads and generations of this run are above this one, those of the runs before are not.
  uint64_t first_number() const { return first_number_; }

  // The model that `spec` makes, or makes wider, is `generation` from now on. To be called by the holder of the claim
  // on its name, before it is published. What makes a model wider is a record of its own: where it cannot be written
  // the model comes back narrower, and it is written with the next one. Where a new model cannot be written, the one
  // that it replaces does not come back.
  void KeepModel(const LoadSpec& spec, uint64_t generation, bool extends, const Caller* caller = nullptr);
  // Undoes KeepModel, as `generation` was not published after all. Where it was to replace a model, that one's record
  // is gone, which the log says.
  void TakeBack(std::string_view name, uint64_t generation, bool extends, const Caller* caller = nullptr);
  // The model was withdrawn; nothing if the record is of a later generation. Generation 0: the model was not known, and
  // the record goes if it is of a run before.
  void DropModel(std::string_view name, uint64_t generation, const Caller* caller = nullptr);
  // The requests that make a model. CHECKPOINT_NOT_FOUND when it was dropped, or what else the file says.
  absl::StatusOr<KeptModel> ReadModel(std::string_view name) const;
  void KeepLoad(const KeptLoad& load, const Caller* caller = nullptr);
  // The same for a load that nobody asks for again by its request id, as many small ones come in a row: written soon
  // after, on a thread of the state, all that wait together. A crash before that loses the report.
  void KeepLoadSoon(const KeptLoad& load);
  // After a crash they may be there once more.
  void DropLoads(const std::vector<std::string>& names);
  // For a process that ends without destroying this, as threads of it hang: the next one may have the directory.
  void GiveUpLock() { directory_.GiveUpLock(); }
  // Makes the record of a map what `maps` says.
  void SyncMap(const DeviceMapTable& maps, std::string_view name, const Caller* caller = nullptr);

 private:
  // The records of one model: the request that made it, and for each that made it wider one more.
  struct ModelRecords {
    uint64_t generation = 0;              // written in this run; 0: by a run before
    bool replaced = false;                // the name had another model before
    std::vector<std::string> extensions;  // names of records, in order
    std::string unwritten;                // an extension that the disk did not take
  };

  // The record of a load.
  struct Report {
    std::string name;
    std::string bytes;
  };

  KeptState(StateDirectory directory, const StateCodec& codec);
  absl::Status ReadAll();
  absl::Status ReadExtensions();
  absl::Status BeginRun();
  void KeepExtension(const LoadSpec& spec, uint64_t generation, const Caller* caller)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(models_mutex_);
  void RemoveModel(std::string_view name, const Caller* caller) ABSL_EXCLUSIVE_LOCKS_REQUIRED(models_mutex_);
  void WriteReports();

  StateDirectory directory_;
  const StateCodec& codec_;
  Content before_;
  uint64_t last_generation_ = 0;  // of the kept models, until BeginRun
  uint64_t first_number_ = 0;     // constant after Open

  mutable Mutex models_mutex_;  // of all records of models, and the next one of all of maps
  Mutex maps_mutex_;
  absl::flat_hash_map<std::string, ModelRecords> models_ ABSL_GUARDED_BY(models_mutex_);  // those that are on the disk

  Mutex reports_mutex_;
  CondVar reports_changed_;
  std::vector<Report> reports_ ABSL_GUARDED_BY(reports_mutex_);  // not written yet
  bool ending_ ABSL_GUARDED_BY(reports_mutex_) = false;
  std::thread writer_;
};

// `spec` with the uploaded documents that it names written out, so that it needs none. DOCUMENT_NOT_FOUND.
absl::StatusOr<LoadSpec> WithDocuments(LoadSpec spec, DocumentStore& documents);

}  // namespace keyload
