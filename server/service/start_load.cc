// How a request becomes a load: it joins one that answers it, or claims the model's name and is queued.

#include <malloc.h>

#include <utility>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/strings.h"
#include "server/service/load_job.h"
#include "server/service/same_model.h"

namespace keyload {

// What a request comes to: a load to join, or one to run, or, with neither, the answer of the loaded model.
struct LoaderService::Start {
  std::shared_ptr<SharedLoad> joins;
  std::shared_ptr<Job> job;         // its caller waits for it already
  SharedLoad::WaiterId waiter = 0;  // that caller
};

void LoaderService::StartLoad(LoadSpec spec, absl::Time deadline, std::shared_ptr<LoadObserver> observer,
                              const std::shared_ptr<LoadTicket>& ticket) {
  if (const absl::Status valid = Validate(spec, /*plan_only=*/false); !valid.ok()) return observer->OnEnd(valid);
  if (spec.warms()) spec.device_map.policy = "disk";
  const SharedLoad::Waiter caller = {.observer = observer, .deadline = deadline, .detach = spec.detach};
  const absl::StatusOr<Start> start = BeginLoad(spec, caller);
  if (!start.ok()) return observer->OnEnd(start.status());
  if (start->job != nullptr) {
    if (ticket != nullptr) ticket->Bind(start->job->load, start->waiter);
    return Queue(start->job);
  }
  if (start->joins == nullptr) return AnswerWithModel(std::move(spec), std::move(observer));
  const std::optional<SharedLoad::WaiterId> waiter = start->joins->Add(caller, /*joins=*/true);
  if (!waiter) {
    return observer->OnEnd(MakeError(
        Reason::kModelBusy, StrCat("model ", spec.model, ": ", start->joins->identity().load, " is being cancelled"),
        {{"model", spec.model}, {"state", "LOADING"}}));
  }
  if (ticket != nullptr) ticket->Bind(start->joins, *waiter);
}

absl::StatusOr<LoaderService::Start> LoaderService::BeginLoad(const LoadSpec& spec, const SharedLoad::Waiter& caller) {
  LoadIdentity identity = {.model = spec.model, .request_id = spec.request_id, .digest = spec.digest};
  Start start;
  MutexLock lock(start_mutex_);
  KEYLOAD_ASSIGN_OR_RETURN(start.joins, table_.FindRequest(identity));
  // Who wants the name to be free wants no load of somebody else either.
  if (start.joins == nullptr && spec.if_exists != IfExists::kFail) start.joins = table_.FindRunning(identity);
  if (start.joins != nullptr) return start;

  absl::StatusOr<ModelRegistry::Claim> claim = deps_.registry->Begin(spec.model);
  ModelHandle extends;
  if (ErrorReason(claim.status()) == Reason::kModelExists) {
    if (spec.if_exists == IfExists::kExtend) {
      claim = BeginExtend(spec, extends);
    } else if (spec.if_exists == IfExists::kReplace) {
      claim = deps_.registry->BeginReplace(spec.model);
    } else {
      return start;
    }
  }
  KEYLOAD_RETURN_IF_ERROR(claim.status());
  start.job = std::make_shared<Job>(Job{.spec = spec,
                                        .load = table_.Add(std::move(identity)),
                                        .claim = *std::move(claim),
                                        .extends = std::move(extends),
                                        .start_time = absl::Now(),
                                        .clock = PhaseClock()});
  // Under the lock: whoever joins must not be the only one, or it would stop the load by leaving.
  start.waiter = *start.job->load->Add(caller, /*joins=*/false);
  return start;
}

absl::StatusOr<ModelRegistry::Claim> LoaderService::BeginExtend(const LoadSpec& spec, ModelHandle& model) {
  KEYLOAD_ASSIGN_OR_RETURN(ModelRegistry::Claim claim, deps_.registry->BeginReplace(spec.model));
  KEYLOAD_ASSIGN_OR_RETURN(model, deps_.registry->Use(spec.model));
  KEYLOAD_RETURN_IF_ERROR(CheckSameRequest(*model, spec));
  return claim;
}

// Looks at files, to see whether they are still those of the model.
void LoaderService::AnswerWithModel(LoadSpec spec, std::shared_ptr<LoadObserver> observer) {
  const bool queued = deps_.queries->TrySubmit([this, spec = std::move(spec), observer] {
    absl::StatusOr<LoadReport> report = Reuse(spec);
    if (report.ok()) observer->OnAccepted(report->load, /*joined=*/true);
    observer->OnEnd(std::move(report));
  });
  if (!queued) observer->OnEnd(MakeError(Reason::kLoadQueueFull, "too many requests are waiting; try again later"));
}

void LoaderService::Queue(const std::shared_ptr<Job>& job) {
  ++active_loads_;
  if (const size_t ahead = deps_.loads->queued(); ahead > 0) {
    job->load->Progress({.phase = "queue", .queue_position = static_cast<uint32_t>(ahead)});
  }
  if (deps_.loads->TrySubmit([this, job] { RunJob(*job); })) return;
  table_.Forget(*job->load);
  EndJob(*job, MakeError(Reason::kLoadQueueFull, "the load queue is full; try again later"));
}

void LoaderService::RunJob(Job& job) {
  absl::StatusOr<LoadReport> result = RunLoad(job);
  malloc_trim(0);  // planning takes several times what a model keeps
  if (result.ok()) {
    LogLoad(*result);
  } else {
    Log(LogLevel::kWarning, "load",
        {{"load", job.load->identity().load},
         {"model", job.spec.model},
         {"outcome", std::string("ERROR")},
         {"reason", std::string(ReasonName(ErrorReason(result.status())))},
         {"message", std::string(result.status().message())}});
  }
  EndJob(job, std::move(result));
}

void LoaderService::EndJob(Job& job, absl::StatusOr<LoadReport> result) {
  job.extends = nullptr;
  job.claim = {};  // before the end is told: whoever hears it may load the name again
  --active_loads_;
  const std::shared_ptr<SharedLoad> load = std::move(job.load);
  load->End(std::move(result));
  table_.Ended(load);
}

void LoaderService::StopLoads() {
  for (const std::shared_ptr<SharedLoad>& load : table_.Running()) load->Stop();
}

}  // namespace keyload
