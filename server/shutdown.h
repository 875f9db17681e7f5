#pragma once

#include <csignal>
#include <memory>

#include "absl/time/time.h"
#include "server/metrics/metrics_server.h"
#include "server/rpc/rpc_server.h"
#include "server/service/kept_state.h"
#include "server/service/loader_service.h"

namespace keyload {

inline constexpr int kExitFailed = 6;
inline constexpr absl::Duration kLogFlush = absl::Seconds(1);

// What of a daemon the end of its loads and calls concerns.
struct Running {
  RpcServer& server;
  LoaderService& service;
  std::unique_ptr<MetricsServer>& scrapes;
  KeptState* state;  // null: nothing is kept
};

// Waits for loads and calls, at most `grace` or until one of `signals` comes, then cancels what is left, and stops
// listening. Where something does not end then, as on a mount that does not answer, it ends the process, whose
// addresses and state directory the next one can have. The watchdog is armed when it returns.
void TakeDown(const Running& running, const sigset_t& signals, absl::Duration grace);

// A reader of the log that has stopped must not keep the process.
[[noreturn]] void EndNow(int code);

}  // namespace keyload
