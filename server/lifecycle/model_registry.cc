#include "server/lifecycle/model_registry.h"

#include <cstdlib>
#include <limits>
#include <utility>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/base/no_throw.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

absl::Status ModelError(Reason reason, std::string_view name, std::string_view what) {
  return MakeError(reason, StrCat("model ", name, " ", what), {{"model", std::string(name)}});
}

absl::Status BusyError(std::string_view name, ModelState state) {
  return MakeError(Reason::kModelBusy, StrCat("model ", name, " is ", ModelStateName(state)),
                   {{"model", std::string(name)}, {"state", std::string(ModelStateName(state))}});
}

ModelState PublishedState(const KeyCounts& counts) {
  if (counts.lazy == 0) return ModelState::kResident;
  return counts.loaded == 0 ? ModelState::kLazy : ModelState::kPartial;
}

// Whether this thread frees what it uses last.
thread_local bool frees_here = false;

}  // namespace

ModelRegistry::FreeingHere::FreeingHere() : before_(std::exchange(frees_here, true)) {}

ModelRegistry::FreeingHere::~FreeingHere() { frees_here = before_; }

ModelRegistry::ModelRegistry() : ModelRegistry(Options()) {}

ModelRegistry::ModelRegistry(const Options& options) : last_generation_(options.first_generation) {
  // A queue without a bound: it holds no more than there were models.
  if (options.frees_apart) {
    frees_ = std::make_unique<Executor>(
        Executor::Options{.name = "free", .threads = 1, .queue_limit = std::numeric_limits<size_t>::max()});
  }
}

ModelRegistry::Claim::Claim(Claim&& other) noexcept
    : registry_(std::exchange(other.registry_, nullptr)),
      name_(std::move(other.name_)),
      generation_(other.generation_) {}

ModelRegistry::Claim& ModelRegistry::Claim::operator=(Claim&& other) noexcept {
  std::swap(registry_, other.registry_);
  std::swap(name_, other.name_);
  std::swap(generation_, other.generation_);
  return *this;
}

ModelRegistry::Claim::~Claim() {
  if (registry_ != nullptr) registry_->Abandon(name_);
}

ModelRegistry::~ModelRegistry() {
  frees_.reset();  // what it frees now tells the table
  // Models tell the table that they are gone: it must be whole until the last one is.
  std::vector<ModelHandle> models;  // go after the lock
  std::vector<std::shared_ptr<Presence>> presences;
  MutexLock lock(mutex_);
  for (auto& [name, entry] : entries_) {
    if (!IsPublished(entry.state)) continue;
    Transition(name, entry, ModelState::kUnloading);
    models.push_back(std::move(entry.model));
    presences.push_back(std::move(entry.presence));
  }
}

void ModelRegistry::Transition(const std::string& name, Entry& entry, ModelState to) {
  if (!IsLegalTransition(entry.state, to)) std::abort();  // a bug in this class: nothing outside can cause it
  const bool told = entry.state == ModelState::kFailed && to == ModelState::kUnloaded;
  entry.state = to;
  if (told) return;
  // A listener that throws must not stop a change that is half made.
  for (const auto& [number, listener] : listeners_) {
    NoThrow([&] { listener({name, to, entry.generation}); }).IgnoreError();
  }
}

std::unique_ptr<ModelRegistry::Subscription> ModelRegistry::Subscribe(Listener listener) {
  std::unique_ptr<Subscription> subscription;  // ends after the lock, should something throw
  MutexLock lock(mutex_);
  for (auto& [name, entry] : entries_) {
    Refresh(name, entry);
    listener({name, entry.state, entry.generation});
  }
  const uint64_t number = ++last_listener_;
  subscription.reset(new Subscription(*this, number));
  listeners_.emplace(number, std::move(listener));
  return subscription;
}

ModelRegistry::Subscription::~Subscription() {
  MutexLock lock(registry_.mutex_);
  registry_.listeners_.erase(number_);
}

absl::StatusOr<ModelRegistry::Claim> ModelRegistry::Begin(std::string_view name) {
  MutexLock lock(mutex_);
  auto it = entries_.find(name);
  if (it != entries_.end() && IsPublished(it->second.state))
    return ModelError(Reason::kModelExists, name, "is loaded already");
  if (it != entries_.end()) return BusyError(name, it->second.state);
  Claim claim(nullptr, std::string(name), last_generation_ + 1);
  it = entries_.emplace(name, Entry()).first;
  it->second.generation = ++last_generation_;
  Transition(it->first, it->second, ModelState::kLoading);
  claim.registry_ = this;  // nothing throws between this and the entry
  return claim;
}

absl::StatusOr<ModelRegistry::Claim> ModelRegistry::BeginReplace(std::string_view name) {
  MutexLock lock(mutex_);
  const auto it = entries_.find(name);
  if (it == entries_.end()) return ModelError(Reason::kModelNotFound, name, "is not loaded");
  if (!IsPublished(it->second.state)) return BusyError(name, it->second.state);
  Claim claim(nullptr, std::string(name), ++last_generation_);
  Transition(it->first, it->second, ModelState::kReplacing);
  claim.registry_ = this;
  return claim;
}

struct ModelRegistry::Presence {
  explicit Presence(std::string model) : name(std::move(model)) {}
  ~Presence() {
    if (registry != nullptr) registry->Freed(name);
  }
  const std::string name;
  ModelRegistry* registry = nullptr;  // once the model is published
};

// Makes all that can throw first: until then the claim stands, and what happens is that it ends.
ModelHandle ModelRegistry::Publish(Claim claim, ResidentModel::Content content) {
  auto model = std::make_unique<ResidentModel>(std::move(content));
  const ModelState state = PublishedState(model->LiveKeys());
  const auto first = std::make_shared<Presence>(claim.name_);
  MutexLock lock(mutex_);
  const auto it = entries_.find(claim.name_);
  Entry& entry = it->second;
  // Unload hears that the memory is free when the last user of the last generation is done, whoever that is.
  ModelHandle handle(model.release(), [this, presence = entry.presence == nullptr ? first : entry.presence](
                                          const ResidentModel* gone) mutable { Free(gone, std::move(presence)); });
  claim.registry_ = nullptr;
  if (entry.presence == nullptr) {
    first->registry = this;
    entry.presence = first;
  }
  ModelHandle before = std::exchange(entry.model, std::move(handle));
  entry.generation = claim.generation_;
  entry.last_use = absl::Now();
  Transition(it->first, entry, state);
  return before;
}

void ModelRegistry::Abandon(const std::string& name) {
  MutexLock lock(mutex_);
  const auto it = entries_.find(name);
  if (it->second.state == ModelState::kReplacing) {
    return Transition(name, it->second, PublishedState(it->second.model->LiveKeys()));
  }
  Transition(name, it->second, ModelState::kFailed);
  Transition(name, it->second, ModelState::kUnloaded);
  entries_.erase(it);
}

void ModelRegistry::Free(const ResidentModel* model, std::shared_ptr<Presence> presence) {
  if (frees_ != nullptr && !frees_here) {
    // Its queue has no bound; where there is no memory for a task, this thread frees the model.
    const absl::Status queued = NoThrow([&] {
      return frees_->Submit({.run = [model, presence]() mutable {
        delete model;
        presence.reset();
      }});
    });
    if (queued.ok()) return;
  }
  delete model;
  presence.reset();
}

void ModelRegistry::Freed(const std::string& name) {
  absl::AnyInvocable<void()> on_freed;
  {
    MutexLock lock(mutex_);
    const auto it = entries_.find(name);
    Transition(name, it->second, ModelState::kUnloaded);
    on_freed = std::move(it->second.on_freed);
    entries_.erase(it);
  }
  if (on_freed) on_freed();
}

void ModelRegistry::Refresh(const std::string& name, Entry& entry) {
  if (!IsPublished(entry.state)) return;
  const ModelState now = PublishedState(entry.model->LiveKeys());
  if (now != entry.state) Transition(name, entry, now);
}

void ModelRegistry::UpdateState(std::string_view name) {
  MutexLock lock(mutex_);
  if (const auto it = entries_.find(name); it != entries_.end()) Refresh(it->first, it->second);
}

absl::StatusOr<ModelHandle> ModelRegistry::Use(std::string_view name) {
  MutexLock lock(mutex_);
  const auto it = entries_.find(name);
  if (it == entries_.end()) return ModelError(Reason::kModelNotFound, name, "is not loaded");
  if (it->second.model == nullptr) return BusyError(name, it->second.state);
  it->second.last_use = absl::Now();
  return it->second.model;
}

ModelInfo ModelRegistry::ToInfo(const std::string& name, Entry& entry) {
  Refresh(name, entry);
  return {.name = name,
          .state = entry.state,
          .generation = entry.generation,
          .model = entry.model,
          .last_use = entry.last_use};
}

absl::StatusOr<ModelInfo> ModelRegistry::Info(std::string_view name) {
  MutexLock lock(mutex_);
  const auto it = entries_.find(name);
  if (it == entries_.end()) return ModelError(Reason::kModelNotFound, name, "is not loaded");
  return ToInfo(it->first, it->second);
}

std::vector<ModelInfo> ModelRegistry::List() {
  std::vector<ModelInfo> infos;
  MutexLock lock(mutex_);
  for (auto& [name, entry] : entries_) infos.push_back(ToInfo(name, entry));
  return infos;
}

std::array<uint64_t, kModelStateCount> ModelRegistry::CountStates() {
  std::array<uint64_t, kModelStateCount> counts = {};
  MutexLock lock(mutex_);
  for (auto& [name, entry] : entries_) {
    Refresh(name, entry);
    ++counts[static_cast<size_t>(entry.state)];
  }
  return counts;
}

absl::Status ModelRegistry::Unload(std::string_view name, OnUnloaded done, OnWithdrawn withdrawn) {
  ModelHandle model;  // these go at the end, without the lock: that may free the memory here
  std::shared_ptr<Presence> presence;
  uint64_t generation = 0;
  {
    MutexLock lock(mutex_);
    const auto it = entries_.find(name);
    if (it != entries_.end()) {
      Entry& entry = it->second;
      if (!IsPublished(entry.state)) return BusyError(name, entry.state);
      const Unloaded unloaded = {.was_loaded = true, .freed_bytes = entry.model->residency().totals().allocated_bytes};
      entry.on_freed = [unloaded, done = std::move(done)]() mutable { done(unloaded); };
      Transition(it->first, entry, ModelState::kUnloading);
      model = std::move(entry.model);
      presence = std::move(entry.presence);
      generation = entry.generation;
    }
  }
  withdrawn(generation);
  if (model == nullptr) done({});
  return absl::OkStatus();
}

}  // namespace keyload
