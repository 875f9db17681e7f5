#include "server/shutdown.h"

#include <cstdlib>

#include "absl/time/clock.h"
#include "server/base/deadline.h"
#include "server/base/log.h"
#include "server/signals.h"

namespace keyload {
namespace {

constexpr absl::Duration kCancelGrace = absl::Seconds(3);

// Waits until no load is active and no call is open, or `grace` is over, or one of `signals` comes; null: none counts.
void WaitForCalls(const RpcServer& server, const LoaderService& service, const sigset_t* signals,
                  absl::Duration grace) {
  constexpr absl::Duration kStep = absl::Milliseconds(20);
  const Deadline deadline = Deadline::After(grace);
  while ((service.active_loads() > 0 || server.open_calls() > 0) && !deadline.passed()) {
    if (signals == nullptr) {
      absl::SleepFor(kStep);
    } else if (WaitForSignal(*signals, kStep)) {
      return;
    }
  }
}

}  // namespace

void EndNow(int code) {
  FlushLog(kLogFlush);
  std::_Exit(code);
}

void TakeDown(const Running& running, const sigset_t& signals, absl::Duration grace) {
  const auto& [server, service, scrapes, state] = running;
  ArmWatchdog(grace + 2 * kCancelGrace, kExitFailed);
  server.BeginDrain();
  WaitForCalls(server, service, &signals, grace);
  ArmWatchdog(2 * kCancelGrace, kExitFailed);  // a second signal may have ended the grace early
  service.StopLoads();
  server.CancelCalls();
  WaitForCalls(server, service, nullptr, kCancelGrace);  // more signals leave what was cancelled its time
  if (server.open_calls() > 0 || service.active_loads() > 0) {
    Log(LogLevel::kWarning, "stop",
        {{"open_calls", uint64_t{server.open_calls()}}, {"active_loads", uint64_t{service.active_loads()}}});
    ArmWatchdog(2 * kCancelGrace, kExitFailed);
    // What the next daemon needs: threads that hang in the kernel keep the process's descriptors open beyond its end.
    server.Abandon();
    scrapes.reset();
    FlushLog(kLogFlush);
    if (state != nullptr) state->GiveUpLock();
    EndNow(service.active_loads() > 0 ? kExitFailed : 0);
  }
  server.Shutdown(absl::Now() + absl::Seconds(1));
}

}  // namespace keyload
