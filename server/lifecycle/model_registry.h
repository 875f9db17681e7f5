#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "server/base/executor.h"
#include "server/base/mutex.h"
#include "server/lifecycle/model_state.h"
#include "server/store/resident_model.h"

namespace keyload {

using ModelHandle = std::shared_ptr<const ResidentModel>;

struct ModelInfo {
  std::string name;
  ModelState state = ModelState::kUnloaded;
  uint64_t generation = 0;
  ModelHandle model;  // null while loading, unloading or failed
  absl::Time last_use;
};

// The models of the daemon by name, and the only place where their state changes. Thread-safe; no call holds its lock
// across I/O.
class ModelRegistry {
 public:
  // Claims `name` for one load: it is LOADING until Publish, or FAILED and then gone when the claim is destroyed
  // without. A claim on a loaded model keeps it REPLACING, and what it was when the claim is destroyed.
  class Claim {
   public:
    Claim() = default;
    Claim(Claim&& other) noexcept;
    Claim& operator=(Claim&& other) noexcept;
    ~Claim();
    uint64_t generation() const { return generation_; }

   private:
    friend class ModelRegistry;
    Claim(ModelRegistry* registry, std::string name, uint64_t generation)
        : registry_(registry), name_(std::move(name)), generation_(generation) {}
    ModelRegistry* registry_ = nullptr;
    std::string name_;
    uint64_t generation_ = 0;
  };

  // Freeing hundreds of gigabytes takes seconds, and the last use of a model may end on any thread, such as one of
  // gRPC's that serves other calls too. So the registry can have a thread that frees models, except where the thread
  // that uses one last holds a FreeingHere: it may take that time, and the memory is free when it goes on.
  class FreeingHere {
   public:
    FreeingHere();
    ~FreeingHere();
    FreeingHere(const FreeingHere&) = delete;

   private:
    const bool before_;
  };

  struct Options {
    uint64_t first_generation = 0;  // generations of models are above
    bool frees_apart = false;       // on a thread of its own; false: whoever uses a model last frees it
  };
  ModelRegistry();
  explicit ModelRegistry(const Options& options);
  // Frees the models. REQUIRES: nobody uses one any more, and no claim is open.
  ~ModelRegistry();

  // MODEL_EXISTS when it is loaded, MODEL_BUSY while it is loading or unloading.
  absl::StatusOr<Claim> Begin(std::string_view name);
  // Claims the loaded model for a change that Publish makes; it can be used meanwhile. MODEL_NOT_FOUND; MODEL_BUSY
  // while it is loading, replaced or unloading.
  absl::StatusOr<Claim> BeginReplace(std::string_view name);
  // Makes `content` what the name stands for, at once for all who ask from now on. Ends the claim. Returns what the
  // name stood for before, which may be its last use.
  ModelHandle Publish(Claim claim, ResidentModel::Content content);

  // The loaded model; the handle keeps its memory. MODEL_NOT_FOUND; MODEL_BUSY while it is loading or unloading.
  absl::StatusOr<ModelHandle> Use(std::string_view name);
  // State of one name, or of all in order; MODEL_NOT_FOUND.
  absl::StatusOr<ModelInfo> Info(std::string_view name);
  std::vector<ModelInfo> List();
  // How many models are in each state, by its number. Takes no hold of any.
  std::array<uint64_t, kModelStateCount> CountStates();

  // To be called after keys of the model became resident or lazy: its state follows, and listeners hear of it.
  void UpdateState(std::string_view name);

  struct Change {
    std::string name;
    ModelState state =
        ModelState::kUnloaded;  // kUnloaded: gone; also the end of kFailed, which has no change of its own
    uint64_t generation = 0;
  };
  // Hears of changes, under the registry's lock: it must be short and must not call the registry.
  using Listener = std::function<void(const Change&)>;
  // Ends with its destruction, after which nothing is heard any more.
  class Subscription {
   public:
    ~Subscription();

   private:
    friend class ModelRegistry;
    Subscription(ModelRegistry& registry, uint64_t number) : registry_(registry), number_(number) {}
    ModelRegistry& registry_;
    const uint64_t number_;
  };
  // Tells the listener of every model as it is now, and then of every change of a state: each model's in order, usable
  // before it is said to be, and said to go before it is gone. Must not outlive the registry.
  std::unique_ptr<Subscription> Subscribe(Listener listener);

  struct Unloaded {
    bool was_loaded = false;
    uint64_t freed_bytes = 0;
  };
  using OnUnloaded = absl::AnyInvocable<void(const Unloaded&)>;
  // Hears which generation was withdrawn, 0 for a name that is not known, while the name is still taken.
  using OnWithdrawn = absl::FunctionRef<void(uint64_t generation)>;
  // Withdraws the model. `withdrawn` is called in this call, and then `done` once, when its last user is done and the
  // memory is free: in this call or later, on the thread that frees it, so it must be short. An unknown name is fine.
  // Waits for nobody. MODEL_BUSY while it is loading, replaced or already unloading; `done` is not
  // called then.
  absl::Status Unload(
      std::string_view name, OnUnloaded done, OnWithdrawn withdrawn = [](uint64_t) {});

 private:
  struct Presence;
  struct Entry {
    ModelState state = ModelState::kUnloaded;
    uint64_t generation = 0;
    ModelHandle model;
    std::shared_ptr<Presence> presence;  // every generation that is in use holds it too; its end is Freed
    absl::Time last_use;
    absl::AnyInvocable<void()> on_freed;  // of who unloads it
  };

  void Transition(const std::string& name, Entry& entry, ModelState to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Abandon(const std::string& name);
  // The end of a model's last use: frees it, here or on frees_.
  void Free(const ResidentModel* model, std::shared_ptr<Presence> presence);
  void Freed(const std::string& name);
  // A published entry's state as what is resident makes it now.
  void Refresh(const std::string& name, Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  ModelInfo ToInfo(const std::string& name, Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  std::map<std::string, Entry, std::less<>> entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_generation_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Listener> listeners_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_listener_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<Executor> frees_;  // null: whoever uses a model last frees it
};

}  // namespace keyload
