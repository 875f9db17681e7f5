// How a request becomes a load: it joins one that answers it, or claims the model's name and is queued.

#include <utility>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/no_throw.h"
#include "server/base/retry.h"
#include "server/base/strings.h"
#include "server/service/load_job.h"
#include "server/service/same_model.h"

namespace keyload {
namespace {

void LogEnd(const SharedLoad& load, const absl::StatusOr<LoadReport>& result) {
  const Caller* const caller = load.context().caller.get();
  if (result.ok()) return LogLoad(*result, caller);
  Log(LogLevel::kWarning, "load",
      {{"load", load.identity().load},
       {"model", load.identity().model},
       {"outcome", std::string("ERROR")},
       {"reason", std::string(ReasonName(ErrorReason(result.status())))},
       {"message", std::string(result.status().message())}},
      caller);
}

}  // namespace

// What a request comes to: a load to join, or one to run that its caller waits for, or, with neither, the answer of the
// loaded model.
struct LoaderService::Start {
  std::shared_ptr<SharedLoad> joins;
  std::shared_ptr<Job> job;
  SharedLoad::WaiterId waiter = SharedLoad::kNobody;  // of the job's load
};

void LoaderService::StartLoad(LoadSpec spec, Deadline deadline, std::shared_ptr<LoadObserver> observer,
                              std::shared_ptr<LoadTicket> ticket, std::shared_ptr<const Caller> caller) {
  if (const absl::Status valid = Validate(spec, /*plan_only=*/false); !valid.ok()) return Refuse(*observer, valid);
  if (spec.warms()) spec.device_map.policy = "disk";
  const absl::Status thrown = NoThrow([&] {
    StartValid({.spec = std::move(spec),
                .deadline = deadline,
                .observer = observer,
                .ticket = std::move(ticket),
                .caller = std::move(caller)});
  });
  if (!thrown.ok()) Refuse(*observer, thrown);  // only what comes before the load begins lets an exception out
}

void LoaderService::Refuse(LoadObserver& observer, const absl::Status& status) {
  deps_.metrics->LoadRefused();
  observer.OnEnd(status);
}

void LoaderService::StartValid(Request request) {
  const LoadSpec& spec = request.spec;
  const SharedLoad::Waiter waiter = {.observer = request.observer,
                                     .deadline = request.deadline,
                                     .detach = spec.detach,
                                     .priority = spec.priority,
                                     .memory_wait = spec.wait_memory};
  const absl::StatusOr<Start> start = BeginLoad(request, waiter);
  if (!start.ok()) return Refuse(*request.observer, start.status());
  if (start->job != nullptr) {
    if (request.ticket != nullptr) request.ticket->Bind(start->job->load, start->waiter);
    return Queue(start->job);
  }
  if (start->joins == nullptr) return AnswerWithModel(std::move(request));
  const absl::StatusOr<SharedLoad::WaiterId> joined = start->joins->Join(waiter);
  if (!joined.ok()) return Refuse(*request.observer, joined.status());
  deps_.metrics->LoadJoined();
  deps_.loads->Changed();  // the caller may have a larger priority, or more time
  if (request.ticket != nullptr) request.ticket->Bind(start->joins, *joined);
}

absl::StatusOr<LoaderService::Start> LoaderService::BeginLoad(const Request& request,
                                                              const SharedLoad::Waiter& waiter) {
  const LoadSpec& spec = request.spec;
  LoadIdentity identity = {.model = spec.model, .request_id = spec.request_id, .digest = spec.digest};
  ModelHandle extends;  // goes after the lock: this may be its last use
  Start start;
  MutexLock lock(start_mutex_);
  if (draining_) return Draining();
  KEYLOAD_ASSIGN_OR_RETURN(start.joins, table_.FindRequest(identity));
  if (start.joins != nullptr) return start;
  // Who wants the name to be free wants no load of somebody else either.
  if (spec.if_exists != IfExists::kFail) start.joins = table_.FindRunning(identity);
  if (start.joins != nullptr) {
    KEYLOAD_RETURN_IF_ERROR(table_.AddRequest(*start.joins, identity));
    return start;
  }
  absl::StatusOr<ModelRegistry::Claim> claim = ClaimName(spec, extends);
  if (ErrorReason(claim.status()) == Reason::kModelNotFound) claim = ClaimName(spec, extends);  // it went meanwhile
  if (ErrorReason(claim.status()) == Reason::kModelExists && spec.if_exists == IfExists::kReuse) return start;
  KEYLOAD_RETURN_IF_ERROR(claim.status());
  const std::string share = request.caller == nullptr ? std::string() : request.caller->share();
  if (!spec.is_kept) KEYLOAD_RETURN_IF_ERROR(deps_.loads->CheckRoom(share));  // before it is told that it is accepted
  start.job = std::make_shared<Job>(Job{.spec = spec,
                                        .load = nullptr,
                                        .claim = *std::move(claim),
                                        .extends = extends,
                                        .start_time = absl::Now(),
                                        .clock = PhaseClock()});
  start.job->load = table_.Add(std::move(identity), request.caller);
  // Under the lock: whoever joins must not be the only one, or it would stop the load by leaving.
  const absl::Status begun = NoThrow([&] { start.waiter = start.job->load->Begin(waiter); });
  if (!begun.ok()) table_.Forget(*start.job->load);
  KEYLOAD_RETURN_IF_ERROR(begun);
  ++active_loads_;
  deps_.metrics->LoadStarted();
  return start;
}

absl::StatusOr<ModelRegistry::Claim> LoaderService::ClaimName(const LoadSpec& spec, ModelHandle& extends) {
  absl::StatusOr<ModelRegistry::Claim> claim = deps_.registry->Begin(spec.model);
  if (ErrorReason(claim.status()) != Reason::kModelExists) return claim;
  if (spec.if_exists == IfExists::kReplace) return deps_.registry->BeginReplace(spec.model);
  if (spec.if_exists == IfExists::kExtend) return BeginExtend(spec, extends);
  return claim;
}

absl::StatusOr<ModelRegistry::Claim> LoaderService::BeginExtend(const LoadSpec& spec, ModelHandle& model) {
  KEYLOAD_ASSIGN_OR_RETURN(ModelRegistry::Claim claim, deps_.registry->BeginReplace(spec.model));
  KEYLOAD_ASSIGN_OR_RETURN(model, deps_.registry->Use(spec.model));
  KEYLOAD_RETURN_IF_ERROR(CheckSameRequest(*model, spec));
  return claim;
}

// Looks at files, to see whether they are still those of the model.
void LoaderService::AnswerWithModel(Request request) {
  const auto asked = std::make_shared<Request>(std::move(request));
  const auto refuse = [this, asked](const absl::Status& status) { Refuse(*asked->observer, status); };
  const absl::Status queued = deps_.queries->Submit(
      {.caller = asked->caller == nullptr ? std::string() : asked->caller->share(),
       .run =
           [this, asked] {
             // A detached request is done whether or not its caller waits.
             const bool may_stop = asked->ticket != nullptr && !asked->spec.detach;
             const RequestContext context = {.stop = may_stop ? asked->ticket->stop_token() : std::stop_token(),
                                             .deadline = asked->deadline,
                                             .caller = asked->caller,
                                             .heap = std::make_shared<RequestHeap>(request_memory())};
             absl::StatusOr<LoadReport> report = NoThrow([&] { return Reuse(asked->spec, context); });
             const Reason reason = ErrorReason(report.status());
             // It went meanwhile, or is being loaded again.
             if (reason == Reason::kModelNotFound || reason == Reason::kModelBusy) return StartValid(*asked);
             if (!report.ok()) return Refuse(*asked->observer, report.status());
             deps_.metrics->LoadJoined();
             asked->observer->OnAccepted(report->load, /*joined=*/true);
             asked->observer->OnEnd(std::move(report));
           },
       .fail = refuse});
  if (!queued.ok()) refuse(queued);
}

void LoaderService::Queue(const std::shared_ptr<Job>& job) {
  const std::shared_ptr<SharedLoad> load = job->load;
  const absl::Status queued = NoThrow([&] {
    return deps_.loads->Submit({.context = load->context(),
                                .load = load,
                                .run = [this, job](LoadQueue::Turn turn) { RunJob(job, std::move(turn)); },
                                .fail = [this, job](const absl::Status& thrown) { FailJob(*job, thrown); },
                                .always = job->spec.is_kept});
  });
  if (queued.ok()) return;
  EndJob(*job, queued);
  table_.Forget(*load);
}

// An exception was not caught where the load could go on to its report.
void LoaderService::FailJob(Job& job, const absl::Status& thrown) {
  if (job.load != nullptr) FinishJob(job, thrown);
}

void LoaderService::RunJob(const std::shared_ptr<Job>& job, LoadQueue::Turn turn) {
  // A model that is replaced has given its memory back when the load that replaces it ends.
  const ModelRegistry::FreeingHere freeing_here;
  if (!turn.status.ok()) return FinishJob(*job, std::move(turn.status));
  job->number = turn.number;
  if (job->load->status().progress) job->load->Progress({.phase = "open"});  // it waits in the queue no more
  WaitOrFinish(job, NoThrow([&] { return PlanAndReserve(*job); }));
}

void LoaderService::WaitOrFinish(const std::shared_ptr<Job>& job, absl::Status planned) {
  if (MayWaitForMemory(*job, planned)) {
    const std::shared_ptr<SharedLoad> load = job->load;  // from then on the job is the queue's
    const std::shared_ptr<const LoadPlan> plan = job->plan.added;
    const auto go_on = [this, job](LoadQueue::Turn turn) {
      const ModelRegistry::FreeingHere freeing_here;
      job->reservations = std::move(turn.memory);
      if (turn.status.ok()) {
        job->load->Progress({.phase = "reserve"});
        TellPlan(*job);
      }
      FinishJob(*job, NoThrow([&] { return LoadPlanned(*job, std::move(turn.status)); }));
    };
    planned = NoThrow([&] {
      return deps_.loads->AwaitMemory({.context = load->context(),
                                       .load = load,
                                       .run = go_on,
                                       .fail = [this, job](const absl::Status& thrown) { FailJob(*job, thrown); }},
                                      job->number, plan, planned);
    });
    if (planned.ok()) return;
  }
  FinishJob(*job, NoThrow([&] { return LoadPlanned(*job, std::move(planned)); }));
}

void LoaderService::FinishJob(Job& job, absl::StatusOr<LoadReport> result) {
  NoThrow([&] { LogEnd(*job.load, result); }).IgnoreError();
  EndJob(job, std::move(result));
}

void LoaderService::EndJob(Job& job, absl::StatusOr<LoadReport> result) {
  const std::shared_ptr<SharedLoad> load = std::move(job.load);
  job.extends = nullptr;
  {
    // Before the end is told: whoever hears it may load the name again, and must not find this load.
    MutexLock lock(start_mutex_);
    load->Close();
    job.claim = {};
  }
  if (!job.spec.is_kept) NoThrow([&] { KeepEnd(*load, result); }).IgnoreError();
  NoThrow([&] { deps_.metrics->LoadEnded(result); }).IgnoreError();
  --active_loads_;
  load->End(std::move(result));
  if (job.spec.is_kept) return table_.Forget(*load);  // nobody asked for it, and it must not push out who did
  const std::vector<std::string> dropped = table_.Ended(load);
  if (deps_.state != nullptr) deps_.state->DropLoads(dropped);
}

void LoaderService::KeepEnd(const SharedLoad& load, const absl::StatusOr<LoadReport>& result) {
  // A load that was not even queued is forgotten at once.
  if (deps_.state == nullptr || ErrorReason(result.status()) == Reason::kLoadQueueFull) return;
  deps_.state->KeepLoad({.identity = load.identity(), .request_ids = table_.RequestIds(load), .result = result},
                        load.context().caller.get());
}

void LoaderService::Publish(Job& job, ResidentModel::Content content) {
  ModelHandle before;  // goes after the lock
  MutexLock lock(start_mutex_);
  job.load->Close();  // from now on the model answers
  before = deps_.registry->Publish(std::move(job.claim), std::move(content));
}

void LoaderService::Drain() {
  MutexLock lock(start_mutex_);  // what begins before is counted among the active loads
  draining_ = true;
}

void LoaderService::StopLoads() {
  for (const std::shared_ptr<SharedLoad>& load : table_.Running()) load->Stop();
}

}  // namespace keyload
