#pragma once

#include <grpcpp/server_context.h>

#include <cstdint>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "server/base/executor.h"
#include "server/base/log_limiter.h"
#include "server/base/request_context.h"
#include "server/base/share_slots.h"
#include "server/rpc/caller.h"
#include "server/rpc/live_calls.h"
#include "server/rpc/send_budget.h"
#include "server/service/loader_service.h"

namespace keyload {

// What every handler needs. Everything outlives every call.
struct RpcContext {
  LoaderService* service = nullptr;
  // Threads by the kind of call, so that what takes long holds up nothing that does not.
  Executor* control = nullptr;   // quick answers that may still ask the system something
  Executor* starts = nullptr;    // takes requests to load apart, which may be 4 MiB
  Executor* plans = nullptr;     // plans, which block on files
  Executor* keys = nullptr;      // goes over the keys of a model or a document
  Executor* maps = nullptr;      // changes of device maps, which may be written to a disk
  Executor* reads = nullptr;     // tensor bytes, which may wait for lazy keys to be loaded
  Executor* unloads = nullptr;   // gives memory back
  Executor* measures = nullptr;  // looks at every page of large files
  LiveCalls* calls = nullptr;
  SendBudget* send = nullptr;
  ShareSlots* watchers = nullptr;                        // open WatchModels calls
  std::vector<std::pair<std::string, uint64_t>> limits;  // of the server, for GetServerInfo
  const AccessControl* access = nullptr;                 // that calls have passed; null: callers have no names
  LogLimiter* refusals = nullptr;  // of the lines about refused callers; null where none are refused
};

// The caller's deadline. gRPC says it as a time of day, so it is to be asked for once, when the call comes.
inline Deadline DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max()
             ? Deadline::Never()
             : Deadline::After(absl::FromChrono(deadline) - absl::Now());
}

inline RequestContext ToRequestContext(const RpcContext& rpc, const grpc::CallbackServerContext& context,
                                       std::stop_token stop) {
  return {.stop = std::move(stop),
          .deadline = DeadlineOf(context),
          .caller = CallerOf(rpc.access, context),
          .heap = std::make_shared<RequestHeap>(rpc.service->request_memory())};
}

}  // namespace keyload
