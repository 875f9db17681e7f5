// How the models of the run before come back.

#include <deque>
#include <iterator>
#include <map>
#include <utility>

#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/strings.h"
#include "server/service/kept_state.h"
#include "server/service/loader_service.h"

namespace keyload {
namespace {

constexpr absl::Duration kMountLimit = absl::Seconds(1);  // to find out which mount a folder is on

// The bytes of a lazy model come on first need, wherever the request wanted them to begin with.
void MakeLazy(LoadSpec& spec) {
  if (spec.warms()) spec.device_map.policy = "disk";
  spec.page_cache = LoadSpec::PageCache::kKeep;
  spec.residency = LoadSpec::Residency::kLazy;
}

}  // namespace

// The models of one mount that are still to come, one after the other: there may be more than loads may wait.
class LoaderService::Restoring : public std::enable_shared_from_this<Restoring> {
 public:
  Restoring(LoaderService& service, std::vector<std::string> models, bool lazily)
      : service_(service), models_(std::move(models)), lazily_(lazily) {}

  // Not on the thread that calls: that may be the end of the load before.
  void Next() {
    if (!service_.deps_.queries->TrySubmit([self = shared_from_this()] { self->Load(); })) Load();
  }

 private:
  class Observer : public LoadObserver {
   public:
    explicit Observer(std::shared_ptr<Restoring> restoring) : restoring_(std::move(restoring)) {}
    void OnAccepted(const std::string& /*load*/, bool /*joined*/) override {}
    void OnPlanned(const LoadReport& /*report*/) override {}
    void OnProgress(const LoadProgress& /*progress*/) override {}
    void OnEnd(absl::StatusOr<LoadReport> result) override { restoring_->Ended(std::move(result)); }

   private:
    const std::shared_ptr<Restoring> restoring_;
  };

  void Load() {
    while (requests_.empty() && next_ < models_.size()) {
      absl::StatusOr<KeptModel> model = service_.deps_.state->ReadModel(models_[next_++]);
      if (!model.ok()) {
        const bool is_gone = ErrorReason(model.status()) == Reason::kCheckpointNotFound;  // unloaded meanwhile
        if (!is_gone) LogNotRestored(model.status());
        continue;
      }
      requests_.assign(std::make_move_iterator(model->requests.begin()),
                       std::make_move_iterator(model->requests.end()));
      begins_ = true;
    }
    if (requests_.empty()) return;
    LoadSpec spec = std::move(requests_.front());
    requests_.pop_front();
    spec.if_exists = std::exchange(begins_, false) ? IfExists::kFail : IfExists::kExtend;
    spec.detach = true;
    spec.is_kept = true;
    spec.digest.clear();  // nobody asked for this load
    if (lazily_) MakeLazy(spec);
    service_.StartLoad(std::move(spec), Deadline::Never(), std::make_shared<Observer>(shared_from_this()));
  }

  void Ended(absl::StatusOr<LoadReport> result) {
    if (service_.draining()) return;  // the next run restores them
    absl::Status status = result.status();
    if (result.ok() && result->outcome == Outcome::kRejected) {
      status = MakeError(Reason::kCheckpointChanged, "its keys pass the request's limits no more");
    } else if (result.ok()) {
      status = result->error;
    }
    if (!status.ok()) {
      requests_.clear();  // what would make it wider has nothing to begin with
      LogNotRestored(status);
    }
    Next();
  }

  void LogNotRestored(const absl::Status& status) const {
    Log(LogLevel::kWarning, "model not restored",
        {{"model", models_[next_ - 1]},
         {"reason", std::string(ReasonName(ErrorReason(status)))},
         {"message", std::string(status.message())}});
  }

  LoaderService& service_;
  const std::vector<std::string> models_;
  const bool lazily_;
  size_t next_ = 0;                // in models_
  std::deque<LoadSpec> requests_;  // of the model before that
  bool begins_ = false;            // the next one is its first
};

// Models that are on one mount come one after the other, so that a mount that does not answer keeps only its own away.
void LoaderService::RestoreModels(bool lazily) {
  const auto restore = [this, lazily, models = std::exchange(to_restore_, {})] {
    std::map<std::string, std::string> mounts;  // by the folder of models, as many models are in one
    std::map<std::string, std::vector<std::string>> names;
    for (const KeptState::Model& model : models) {
      const std::string folder = model.path.substr(0, model.path.rfind('/'));
      const auto [mount, is_new] = mounts.try_emplace(folder);
      if (is_new && deps_.storage != nullptr) mount->second = deps_.storage->MountOf(folder, kMountLimit);
      names[mount->second].push_back(model.name);
    }
    for (auto& [mount, of_mount] : names) {
      std::make_shared<Restoring>(*this, std::move(of_mount), lazily)->Next();
    }
  };
  if (!deps_.queries->TrySubmit(restore)) restore();
}

}  // namespace keyload
