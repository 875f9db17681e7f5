#include "server/rpc/watch_models.h"

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "server/base/error.h"
#include "server/base/mutex.h"
#include "server/base/no_throw.h"
#include "server/base/retry.h"
#include "server/base/strings.h"
#include "server/rpc/convert_report.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/limits.h"

namespace keyload {
namespace {

class WatchModelsCall : public grpc::ServerWriteReactor<v1::WatchModelsResponse>, public LiveCall {
 public:
  WatchModelsCall(const RpcContext& rpc, grpc::CallbackServerContext& context,
                  RequestPtr<v1::WatchModelsRequest> request)
      : context_(context),
        watching_(rpc.watchers->TryTake(CallerOf(rpc.access, context)->share())),
        request_(std::move(request)),
        names_(request_->models().begin(), request_->models().end()),
        entry_(*rpc.calls, this, PeerOf(*CallerOf(rpc.access, context))) {
    if (rpc.service->draining()) Drain();  // those that were there have been told
    if (!watching_) {
      End(Annotate(TooManyWaiting(absl::Seconds(1)),
                   StrCat(kMaxWatchers, " calls watch the models already, or half of them are this caller's")));
    }
    if (request_->models_size() > kMaxWatchedModels) {
      End(MakeError(Reason::kBadRequest,
                    StrCat("models has ", request_->models_size(), " names, at most ", kMaxWatchedModels,
                           " are taken: name fewer, or none to watch all models"),
                    {{"field", "models"}}));
    }
    subscription_ = rpc.service->registry().Subscribe([this](const ModelRegistry::Change& change) { Note(change); });
    {
      MutexLock lock(mutex_);
      subscribed_ = true;
      initial_ = order_.size();
    }
    Advance();
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mutex_);
      writing_ = false;
      sending_since_ = Clock::time_point::max();
      if (!ok && end_.ok()) end_ = ClientIsGone();
    }
    Advance();
  }
  void OnCancel() override { End(ClientIsGone()); }
  void OnDone() override { delete this; }
  void Drain() override {
    End(NoThrow([]() -> absl::Status { return Draining(); }));
  }
  void Cancel() override {
    Drain();
    context_.TryCancel();  // a write that the client does not take would wait for ever
  }
  void CancelIfUnread(Clock::time_point now, Clock::duration limit) override {
    {
      MutexLock lock(mutex_);
      if (sending_since_ >= now - limit) return;
    }
    Cancel();
  }

 private:
  ~WatchModelsCall() override = default;

  // Runs under the registry's lock.
  void Note(const ModelRegistry::Change& change) {
    if (!names_.empty() && !names_.contains(change.name)) return;
    const absl::Status noted = NoThrow([&] {
      MutexLock lock(mutex_);
      order_.push_back(change.name);
      if (!changes_.insert_or_assign(change.name, change).second) order_.pop_back();
    });
    // A client that would miss a change is told so.
    noted.ok() ? Advance() : End(noted);
  }

  void End(absl::Status status) {
    {
      MutexLock lock(mutex_);
      if (end_.ok()) end_ = std::move(status);
    }
    Advance();
  }

  // Lets no exception out: a message that cannot be made ends the call.
  void Advance() noexcept {
    absl::Status end;
    {
      MutexLock lock(mutex_);
      if (writing_ || finished_ || !subscribed_) return;
      if (end_.ok()) {
        const absl::StatusOr<bool> filled =
            NoThrow([this]() ABSL_NO_THREAD_SAFETY_ANALYSIS -> absl::StatusOr<bool> { return Fill(); });
        if (filled.ok() && !*filled) return;
        end_ = filled.status();
      }
      if (end_.ok()) {
        writing_ = true;
        sending_since_ = Clock::now();
        StartWrite(&response_);
        return;
      }
      finished_ = true;
      end = end_;
    }
    Finish(ToGrpcStatus(end));  // after this the call may be gone
  }

  // The next message; false when there is nothing to say.
  bool Fill() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    response_.Clear();
    if (!current_ && initial_ == 0) {
      current_ = true;
      response_.set_current(true);
      return true;
    }
    if (!order_.empty()) {
      if (!current_) --initial_;  // a change of what is not sent yet takes its place
      const auto it = changes_.find(order_.front());
      *response_.mutable_model() = ToProto(it->second);
      changes_.erase(it);
      order_.pop_front();
      return true;
    }
    return false;
  }

  grpc::CallbackServerContext& context_;
  const std::optional<ShareSlots::Slot> watching_;    // changes of models are written to all, under the registry's lock
  const RequestPtr<v1::WatchModelsRequest> request_;  // its charge counts as long as the names are used
  const absl::flat_hash_set<std::string_view> names_;  // of request_; empty: all
  v1::WatchModelsResponse response_;                   // the write in flight

  Mutex mutex_;
  absl::flat_hash_map<std::string, ModelRegistry::Change> changes_ ABSL_GUARDED_BY(mutex_);  // not sent yet
  std::deque<std::string> order_ ABSL_GUARDED_BY(mutex_);                                    // of changes_
  bool subscribed_ ABSL_GUARDED_BY(mutex_) = false;
  size_t initial_ ABSL_GUARDED_BY(mutex_) = 0;    // first ones of order_, which were there at the start
  bool current_ ABSL_GUARDED_BY(mutex_) = false;  // what was there at the start has been sent
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  Clock::time_point sending_since_ ABSL_GUARDED_BY(mutex_) = Clock::time_point::max();
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);

  const LiveCalls::Entry entry_;
  std::unique_ptr<ModelRegistry::Subscription> subscription_;  // goes first: it calls Note
};

}  // namespace

grpc::ServerWriteReactor<v1::WatchModelsResponse>* StartWatchModels(const RpcContext& rpc,
                                                                    grpc::CallbackServerContext* context,
                                                                    const RequestPtr<v1::WatchModelsRequest>& request) {
  return new WatchModelsCall(rpc, *context, request);
}

}  // namespace keyload
