#pragma once

#include <grpcpp/support/server_callback.h>

#include <list>
#include <memory>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "keyload/v1/model_loader.pb.h"
#include "server/base/mutex.h"
#include "server/rpc/limits.h"
#include "server/rpc/request_ptr.h"
#include "server/rpc/rpc_context.h"

namespace keyload {

// The Load stream: any number of loads, each ended by exactly one report or error. A load's events wait in one slot
// each, so that a client that stops reading costs a few messages and never a queue: progress is replaced by newer
// progress. Whether the caller may load is asked for each of them. Lives until the client is gone and the last load has
// ended; deletes itself.
class LoadStream : public grpc::ServerBidiReactor<grpc::ByteBuffer, v1::LoadResponse>, public LiveCall {
 public:
  LoadStream(const RpcContext& rpc, grpc::CallbackServerContext& context);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  void Drain() override;
  void Cancel() override;
  // Once its loads have ended and a client does not take what is left to say. It is kept: GetLoad tells it too.
  void CancelIfUnread(Clock::time_point now, Clock::duration limit) override;

 private:
  class Load;

  ~LoadStream() override = default;
  // Ends the stream with `status` once its loads, which are cancelled, have ended.
  void Abort(const absl::Status& status);
  // Whether the next request may be read now: else Started does that. The first of the message that was read.
  absl::StatusOr<bool> Handle();
  absl::StatusOr<bool> Handle(RequestPtr<v1::LoadRequest> request);
  absl::StatusOr<bool> Start(RequestPtr<v1::LoadRequest> request);
  void Started();
  void ReadNext();
  // Writes the audit line of a request that no load was made for; returns `status`.
  absl::Status Refuse(const v1::LoadRequest& request, const absl::Status& status);
  absl::Status Add(const std::string& load_id, const std::shared_ptr<Load>& load);
  // Makes `change` and, under the same lock, looks whether it is time to write the next event or to finish. Under one
  // lock, because the stream may be gone as soon as the end of its last load can be seen.
  // Lets no exception out: what cannot be told ends the stream, with its loads.
  void Advance(absl::FunctionRef<void()> change = [] {}) noexcept;
  // Of the loads that have not ended: to be used outside the lock, under which observers wait. Takes no memory.
  using TicketList = absl::InlinedVector<std::shared_ptr<LoadTicket>, kMaxLoadsPerStream>;
  TicketList Tickets() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Fills response_ with the next event of the load whose turn it is; false: there is none.
  bool TakeEvent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The client would miss something: cancels the call, which ends the loads.
  void Break(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same as TakeEvent, with room for it in the budget.
  bool TakeMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const RpcContext rpc_;
  grpc::CallbackServerContext& context_;  // gRPC's, until OnDone
  const Deadline deadline_;
  const std::shared_ptr<const Caller> caller_;
  SendBudget::Hold hold_;      // of the write in flight
  grpc::ByteBuffer request_;   // the read in flight: whether it is a LoadRequest is for the stream to say
  v1::LoadResponse response_;  // the write in flight

  Mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<Load>> loads_ ABSL_GUARDED_BY(mutex_);  // until their end is written
  std::list<std::string> order_ ABSL_GUARDED_BY(mutex_);  // of loads_, for a fair turn each
  bool reads_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool starting_ ABSL_GUARDED_BY(mutex_) = false;  // a thread is at the request that was read last
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  Clock::time_point sending_since_ ABSL_GUARDED_BY(mutex_) = Clock::time_point::max();
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;  // nobody reads: events are dropped
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);

  const LiveCalls::Entry entry_;
};

}  // namespace keyload
