// How the models of the run before come back.

#include <deque>
#include <iterator>
#include <utility>

#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/strings.h"
#include "server/service/kept_state.h"
#include "server/service/loader_service.h"

namespace keyload {
namespace {

// The bytes of a lazy model come on first need, wherever the request wanted them to begin with.
void MakeLazy(LoadSpec& spec) {
  if (spec.warms()) spec.device_map.policy = "disk";
  spec.page_cache = LoadSpec::PageCache::kKeep;
  spec.residency = LoadSpec::Residency::kLazy;
}

}  // namespace

// The models that are still to come, one after the other: there may be more than loads may wait.
class LoaderService::Restoring : public std::enable_shared_from_this<Restoring> {
 public:
  Restoring(LoaderService& service, std::vector<KeptModel> models, bool lazily)
      : service_(service),
        models_(std::make_move_iterator(models.begin()), std::make_move_iterator(models.end())),
        lazily_(lazily) {}

  void Next() {
    while (!models_.empty() &&
           (models_.front().requests.empty() || !service_.deps_.state->HasModel(models_.front().name)))
      models_.pop_front();  // done, or unloaded meanwhile
    if (models_.empty()) return;
    KeptModel& model = models_.front();
    LoadSpec spec = std::move(model.requests.front());
    model.requests.erase(model.requests.begin());
    spec.if_exists = begun_ == model.name ? IfExists::kExtend : IfExists::kFail;
    begun_ = model.name;
    spec.detach = true;
    spec.is_kept = true;
    spec.digest.clear();  // nobody asked for this load
    if (lazily_) MakeLazy(spec);
    service_.StartLoad(std::move(spec), absl::InfiniteFuture(), std::make_shared<Observer>(shared_from_this()));
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

  void Ended(absl::StatusOr<LoadReport> result) {
    if (service_.draining()) return;  // the next run restores them
    KeptModel& model = models_.front();
    absl::Status status = result.status();
    if (result.ok() && result->outcome == Outcome::kRejected) {
      status = MakeError(Reason::kCheckpointChanged, "its keys pass the request's limits no more");
    } else if (result.ok()) {
      status = result->error;
    }
    if (!status.ok()) {
      model.requests.clear();  // what would make it wider has nothing to begin with
      Log(LogLevel::kWarning, "model not restored",
          {{"model", model.name},
           {"reason", std::string(ReasonName(ErrorReason(status)))},
           {"message", std::string(status.message())}});
    }
    Next();
  }

  LoaderService& service_;
  std::deque<KeptModel> models_;
  const bool lazily_;
  std::string begun_;  // the model whose first request was made
};

void LoaderService::RestoreModels(bool lazily) {
  std::make_shared<Restoring>(*this, std::exchange(to_restore_, {}), lazily)->Next();
}

}  // namespace keyload
