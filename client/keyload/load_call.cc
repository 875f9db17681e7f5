#include "client/keyload/load_call.h"

#include <chrono>
#include <functional>
#include <stop_token>

#include "absl/time/clock.h"
#include "client/keyload/call_context.h"
#include "client/keyload/call_status.h"

namespace keyload::client_internal {
namespace {

constexpr char kLoadId[] = "1";  // one load per stream: any name is unique

}  // namespace

LoadCall::LoadCall(v1::ModelLoaderService::Stub& stub, const LoadCallbacks& callbacks, const CallOptions& options,
                   Until until, absl::Duration cancel_grace)
    : stub_(stub), callbacks_(callbacks), options_(options), until_(until), cancel_grace_(cancel_grace) {
  CallContext::Apply(options, context_);
  start_.set_load_id(kLoadId);
  cancel_.set_load_id(kLoadId);
  cancel_.mutable_cancel();
}

LoadCall::~LoadCall() {
  // The queue must be empty before it goes: a pending alarm is the one thing that can still be in it.
  stop_alarm_.Cancel();
  queue_.Shutdown();
  void* tag;
  bool ok;
  while (queue_.Next(&tag, &ok)) {
  }
}

absl::Status LoadCall::Run(const v1::LoadSpec& spec) {
  *start_.mutable_start() = spec;
  stream_ = stub_.AsyncLoad(&context_, &queue_, Tag(Event::kStarted));
  std::stop_callback on_stop(options_.stop, [this] {
    stop_alarm_.Set(&queue_, std::chrono::system_clock::now(), Tag(Event::kStopRequested));
  });
  while (!finished_) {
    Event event;
    bool ok;
    if (WaitEvent(event, ok)) OnEvent(event, ok);
  }
  return Result();
}

// False: the grace after a stop request has passed, and the call is broken off.
bool LoadCall::WaitEvent(Event& event, bool& ok) {
  void* tag = nullptr;
  if (break_off_ == absl::InfiniteFuture()) {
    queue_.Next(&tag, &ok);
  } else if (queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(break_off_)) == grpc::CompletionQueue::TIMEOUT) {
    context_.TryCancel();
    break_off_ = absl::InfiniteFuture();
    return false;
  }
  event = static_cast<Event>(reinterpret_cast<intptr_t>(tag));
  return true;
}

void LoadCall::OnEvent(Event event, bool ok) {
  switch (event) {
    case Event::kStarted:
      if (!ok) {
        stream_->Finish(&status_, Tag(Event::kFinished));
        return;
      }
      started_ = true;
      stream_->Read(&incoming_, Tag(Event::kRead));
      WriteNext();
      return;
    case Event::kRead:
      if (!ok) {
        stream_->Finish(&status_, Tag(Event::kFinished));
        return;
      }
      OnMessage();
      stream_->Read(&incoming_, Tag(Event::kRead));
      WriteNext();
      return;
    case Event::kWritten:
      writing_ = false;
      if (ok) WriteNext();
      return;
    case Event::kStopRequested:
      RequestCancel();
      return;
    case Event::kFinished:
      finished_ = true;
      return;
  }
}

void LoadCall::OnMessage() {
  switch (incoming_.event_case()) {
    case v1::LoadResponse::kAccepted:
      accepted_ = incoming_.accepted();
      if (callbacks_.on_accepted) callbacks_.on_accepted(*accepted_);
      break;
    case v1::LoadResponse::kPlanned:
      if (callbacks_.on_plan) callbacks_.on_plan(incoming_.planned());
      break;
    case v1::LoadResponse::kProgress:
      if (callbacks_.on_progress) callbacks_.on_progress(incoming_.progress());
      break;
    case v1::LoadResponse::kReport:
      report_ = std::move(*incoming_.mutable_report());
      break;
    case v1::LoadResponse::kError:
      error_ = std::move(*incoming_.mutable_error());
      break;
    case v1::LoadResponse::EVENT_NOT_SET:
      break;  // an event of a later version
  }
}

// gRPC allows one write at a time; this picks the next one that is due.
void LoadCall::WriteNext() {
  if (!started_ || writing_ || half_closed_) return;
  if (!start_written_) {
    start_written_ = writing_ = true;
    stream_->Write(start_, Tag(Event::kWritten));
  } else if (Satisfied()) {
    half_closed_ = writing_ = true;
    stream_->WritesDone(Tag(Event::kWritten));
    if (!report_ && !error_) context_.TryCancel();  // the load goes on without us; its end is not awaited
  } else if (stop_requested_ && !cancel_written_) {
    cancel_written_ = writing_ = true;
    stream_->Write(cancel_, Tag(Event::kWritten));
  }
}

void LoadCall::RequestCancel() {
  stop_requested_ = true;
  if (!started_) {
    context_.TryCancel();  // nobody has seen the load yet
    return;
  }
  break_off_ = absl::Now() + cancel_grace_;
  WriteNext();
}

bool LoadCall::Satisfied() const { return report_ || error_ || (until_ == Until::kAccepted && accepted_); }

absl::Status LoadCall::Result() const {
  if (error_) return FromLoadError(*error_);
  if (report_ || (until_ == Until::kAccepted && accepted_)) return absl::OkStatus();
  if (!status_.ok()) return FromGrpc(status_);
  return absl::InternalError("the server ended the stream without a report");
}

}  // namespace keyload::client_internal
