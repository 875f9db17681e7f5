#include "server/rpc/load_stream.h"

#include <algorithm>
#include <utility>

#include "server/base/error.h"
#include "server/base/no_throw.h"
#include "server/base/retry.h"
#include "server/base/strings.h"
#include "server/rpc/authorize.h"
#include "server/rpc/convert_report.h"
#include "server/rpc/convert_spec.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/limits.h"
#include "server/rpc/load_audit.h"
#include "server/rpc/strict_request.h"

namespace keyload {

// One load's side of the stream. The stream outlives it: a stream finishes only after its loads have ended.
class LoadStream::Load : public LoadObserver {
 public:
  Load(LoadStream& stream, const std::string& model) : model_(model), stream_(stream), audit_(model, stream.caller_) {}

  const std::shared_ptr<LoadTicket> ticket = std::make_shared<LoadTicket>();

  void OnAccepted(const std::string& load, bool joined) override {
    v1::LoadAccepted event;
    event.set_load(load);
    event.set_joined(joined);
    audit_.Accepted(load);
    Set([&](Slots& slots) {
      slots.accepted = std::move(event);
      slots.load = load;
    });
  }
  void OnPlanned(const LoadReport& report) override {
    v1::LoadReport event = ToProto(report);
    Set([&](Slots& slots) { slots.planned = std::move(event); });
  }
  void OnProgress(const LoadProgress& progress) override {
    v1::LoadProgress event = ToProto(progress);
    Set([&](Slots& slots) { slots.progress = std::move(event); });
  }
  void OnEnd(absl::StatusOr<LoadReport> result) override {
    v1::LoadResponse event;
    absl::Status told = NoThrow([&] { Describe(result, event); });
    if (!told.ok()) told = NoThrow([&] { *event.mutable_error() = ToLoadError(told); });
    if (!told.ok()) stream_.context_.TryCancel();  // a load without an end would keep the stream open
    NoThrow([&] { audit_.End(result); }).IgnoreError();
    Set([&](Slots& slots) {
      slots.progress.reset();
      slots.end = std::move(event);
      slots.ended = true;
    });
  }

  // Ends a load that its caller may not start, without an audit line if `told` is false.
  void Refuse(const absl::Status& status, bool told) {
    if (!told) audit_.Suppress();
    OnEnd(status);
  }

  // Moves the oldest waiting event into `response`; false if there is none. REQUIRES: the stream's lock.
  bool Take(v1::LoadResponse& response) {
    // What throws leaves the event where it is.
    const auto move = [](auto& slot, auto* message) {
      message->Swap(&*slot);
      slot.reset();
      return true;
    };
    if (slots_.accepted) return move(slots_.accepted, response.mutable_accepted());
    if (slots_.planned) return move(slots_.planned, response.mutable_planned());
    if (slots_.progress) return move(slots_.progress, response.mutable_progress());
    if (slots_.end) return move(slots_.end, &response);
    return false;
  }
  // A request to cancel it, for the audit; `load` is empty before it was accepted. REQUIRES: the stream's lock.
  AuditEntry cancel() const { return {.action = "cancel", .model = model_, .load = slots_.load}; }
  // REQUIRES: the stream's lock.
  bool ended() const { return slots_.ended; }
  bool empty() const { return !slots_.accepted && !slots_.planned && !slots_.progress && !slots_.end; }

 private:
  struct Slots {
    std::optional<v1::LoadAccepted> accepted;
    std::optional<v1::LoadReport> planned;
    std::optional<v1::LoadProgress> progress;
    std::optional<v1::LoadResponse> end;
    std::string load;  // what the server calls it
    bool ended = false;
  };
  static void Describe(const absl::StatusOr<LoadReport>& result, v1::LoadResponse& event) {
    if (result.ok()) {
      *event.mutable_report() = ToProto(*result);
    } else {
      *event.mutable_error() = ToLoadError(result.status());
    }
  }
  template <typename Change>
  void Set(Change change) {
    stream_.Advance([&] { change(slots_); });
  }

  const std::string model_;
  LoadStream& stream_;
  LoadAudit audit_;
  Slots slots_;  // guarded by stream_.mutex_
};

LoadStream::LoadStream(const RpcContext& rpc, grpc::CallbackServerContext& context)
    : rpc_(rpc),
      context_(context),
      deadline_(DeadlineOf(context)),
      caller_(CallerOf(rpc.access, context)),
      hold_(*rpc.send, PeerOf(*caller_)),
      entry_(*rpc.calls, this, PeerOf(*caller_)) {
  StartRead(&request_);
  if (rpc_.service->draining()) Drain();  // those that were there have been told
}

void LoadStream::OnDone() { delete this; }

void LoadStream::OnReadDone(bool ok) {
  if (!ok) {
    {
      MutexLock lock(mutex_);
      reads_done_ = true;
    }
    return Advance();
  }
  const absl::StatusOr<bool> handled = NoThrow([this] { return Handle(); });
  if (!handled.ok()) {
    {
      MutexLock lock(mutex_);
      reads_done_ = true;
    }
    return Abort(handled.status());
  }
  if (*handled) ReadNext();
}

void LoadStream::ReadNext() {
  request_.Clear();
  StartRead(&request_);
}

absl::StatusOr<bool> LoadStream::Handle() {
  KEYLOAD_ASSIGN_OR_RETURN(RequestPtr<v1::LoadRequest> request,
                           ParseRequest<v1::LoadRequest>(request_, rpc_.service->request_memory()));
  return Handle(std::move(request));
}

absl::StatusOr<bool> LoadStream::Handle(RequestPtr<v1::LoadRequest> read) {
  const v1::LoadRequest& request = *read;
  if (const absl::Status known = CheckKnownFields(request); !known.ok()) return Refuse(request, known);
  if (request.load_id().empty() || request.load_id().size() > 128) {
    return Refuse(request, MakeError(Reason::kBadRequest, "load_id must have 1 to 128 bytes", {{"field", "load_id"}}));
  }
  if (request.has_start()) return Start(std::move(read));
  if (!request.has_cancel())
    return MakeError(Reason::kBadRequest, "a load request must start or cancel", {{"field", "request"}});
  std::shared_ptr<LoadTicket> ticket;
  AuditEntry audit = {.action = "cancel"};
  {
    MutexLock lock(mutex_);
    if (const auto it = loads_.find(request.load_id()); it != loads_.end()) {
      ticket = it->second->ticket;
      audit = it->second->cancel();
    }
  }
  Audit(audit, *caller_);
  if (ticket != nullptr) ticket->Cancel();  // an unknown one has just ended
  return true;
}

LoadStream::TicketList LoadStream::Tickets() {
  TicketList tickets;
  for (const auto& [id, load] : loads_) tickets.push_back(load->ticket);
  return tickets;
}

absl::Status LoadStream::Add(const std::string& load_id, const std::shared_ptr<Load>& load) {
  MutexLock lock(mutex_);
  // The read was under way when the stream ended: a load would outlive it.
  if (broken_ || finished_) return MakeError(Reason::kLoadCancelled, "the stream has ended");
  if (loads_.size() >= kMaxLoadsPerStream) {
    return MakeError(Reason::kBadRequest, StrCat("over ", kMaxLoadsPerStream, " unfinished loads on one stream"));
  }
  std::list<std::string> id = {load_id};
  if (!loads_.emplace(load_id, load).second) {
    return MakeError(Reason::kBadRequest, StrCat("load_id ", load_id, " is in use on this stream"),
                     {{"field", "load_id"}});
  }
  order_.splice(order_.end(), id);
  return absl::OkStatus();
}

absl::Status LoadStream::Refuse(const v1::LoadRequest& request, const absl::Status& status) {
  const bool cancels = request.has_cancel();
  if (cancels || request.has_start()) {
    Audit({.action = cancels ? "cancel" : "load", .model = request.start().model(), .status = status}, *caller_);
  }
  return status;
}

absl::StatusOr<bool> LoadStream::Start(RequestPtr<v1::LoadRequest> read) {
  const v1::LoadRequest& request = *read;
  const v1::LoadSpec& spec = request.start();
  auto load = std::make_shared<Load>(*this, spec.model());
  if (const absl::Status added = Add(request.load_id(), load); !added.ok()) return Refuse(request, added);
  // The stream may be older than what its caller may do now.
  if (const absl::Status refusal = Authorize(*rpc_.access, context_, Role::kLoad, "Load"); !refusal.ok()) {
    load->Refuse(refusal, TellRefusal(refusal, "Load", *caller_, rpc_.service->metrics(), *rpc_.refusals));
    return true;
  }
  {
    MutexLock lock(mutex_);
    starting_ = true;
  }
  // On a thread of ours, as a spec may be large. The next request is read after that, so that no more than one of a
  // stream is kept.
  const auto start = [this, load, read] {
    absl::StatusOr<LoadSpec> converted =
        NoThrow([&] { return FromProto(read->start(), &rpc_.service->device_maps()); });
    if (converted.ok()) {
      converted->charge = read;
      rpc_.service->StartLoad(*std::move(converted), deadline_, load, load->ticket, caller_);
    } else {
      load->OnEnd(converted.status());
    }
    Started();
  };
  const auto fail = [this, load](const absl::Status& thrown) {
    load->OnEnd(thrown);
    Started();
  };
  const absl::Status queued =
      NoThrow([&] { return rpc_.starts->Submit({.caller = caller_->share(), .run = start, .fail = fail}); });
  if (!queued.ok()) fail(queued);
  return false;
}

void LoadStream::Started() {
  Advance([this] {
    starting_ = false;
    if (broken_ || finished_) {
      reads_done_ = true;
    } else {
      ReadNext();
    }
  });
}

bool LoadStream::TakeEvent() {
  for (size_t turns = order_.size(); turns > 0; --turns) {
    const auto it = loads_.find(order_.front());
    response_.Clear();
    const bool taken = !broken_ && it->second->Take(response_);
    if (taken) response_.set_load_id(order_.front());
    if (it->second->ended() && (broken_ || it->second->empty())) {
      loads_.erase(it);
      order_.pop_front();
    } else {
      order_.splice(order_.end(), order_, order_.begin());
    }
    if (taken) return true;
  }
  return false;
}

bool LoadStream::TakeMessage() {
  if (!TakeEvent()) return false;
  if (!hold_.TryTake(response_.ByteSizeLong())) {
    if (response_.has_planned()) CutReport(*response_.mutable_planned(), 0);
    if (response_.has_report()) CutReport(*response_.mutable_report(), 0);
  }
  return true;
}

void LoadStream::Break(const absl::Status& why) {
  broken_ = true;
  if (end_.ok()) end_ = why;
  context_.TryCancel();
}

void LoadStream::Advance(absl::FunctionRef<void()> change) noexcept {
  absl::Status end;
  {
    MutexLock lock(mutex_);
    if (const absl::Status changed = NoThrow(change); !changed.ok()) Break(changed);
    if (writing_ || finished_) return;
    absl::StatusOr<bool> taken =
        NoThrow([this]() ABSL_NO_THREAD_SAFETY_ANALYSIS -> absl::StatusOr<bool> { return TakeMessage(); });
    if (!taken.ok()) {
      Break(taken.status());
      taken = TakeEvent();  // a broken stream only forgets what has ended
    }
    if (*taken) {
      writing_ = true;
      sending_since_ = Clock::now();
      StartWrite(&response_);
      return;
    }
    if (starting_ || !loads_.empty() || !(reads_done_ || broken_ || draining_)) return;
    finished_ = true;
    end = end_;
    if (end.ok() && draining_ && !reads_done_) end = NoThrow([]() -> absl::Status { return Draining(); });
  }
  // After this the stream may be gone.
  Finish(ToGrpcStatus(end));
}

void LoadStream::OnWriteDone(bool ok) {
  {
    MutexLock lock(mutex_);
    writing_ = false;
    sending_since_ = Clock::time_point::max();
    hold_.Release();
  }
  ok ? Advance() : Abort(ClientIsGone());
}

void LoadStream::OnCancel() { Abort(ClientIsGone()); }

void LoadStream::Abort(const absl::Status& status) {
  TicketList unfinished;
  {
    MutexLock lock(mutex_);
    if (finished_) return;
    broken_ = true;
    if (end_.ok()) end_ = status;
    unfinished = Tickets();
  }
  for (const std::shared_ptr<LoadTicket>& ticket : unfinished) ticket->Leave();
  Advance();
}

void LoadStream::Drain() {
  {
    MutexLock lock(mutex_);
    draining_ = true;
  }
  Advance();
}

void LoadStream::CancelIfUnread(Clock::time_point now, Clock::duration limit) {
  {
    MutexLock lock(mutex_);
    if (!loads_.empty() || sending_since_ >= now - limit) return;
  }
  context_.TryCancel();
}

void LoadStream::Cancel() {
  TicketList unfinished;
  {
    MutexLock lock(mutex_);
    unfinished = Tickets();
  }
  for (const std::shared_ptr<LoadTicket>& ticket : unfinished) ticket->Cancel();
}

}  // namespace keyload
