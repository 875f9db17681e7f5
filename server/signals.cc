#include "server/signals.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <string_view>

namespace keyload {
namespace {

std::atomic<int> watchdog_exit_code = 1;

Signals MakeSignals() {
  Signals signals;
  sigemptyset(&signals.ending);
  for (const int signal_number : {SIGTERM, SIGINT}) sigaddset(&signals.ending, signal_number);
  signals.all = signals.ending;
  sigaddset(&signals.all, SIGHUP);
  return signals;
}

void BlockSignals(int /*argc*/, char** /*argv*/, char** /*environment*/) {
  const Signals signals = MakeSignals();
  sigprocmask(SIG_BLOCK, &signals.all, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

// The dynamic linker calls this before the constructors of libraries, which take most of the time until main().
__attribute__((section(".preinit_array"), used)) void (*const block_signals)(int, char**, char**) = BlockSignals;

}  // namespace

Signals BlockedSignals() { return MakeSignals(); }

bool WaitForSignal(const sigset_t& signals, absl::Duration timeout) {
  const timespec wait = absl::ToTimespec(timeout);
  return sigtimedwait(&signals, nullptr, &wait) > 0;
}

void ArmWatchdog(absl::Duration limit, int exit_code) {
  watchdog_exit_code = exit_code;
  signal(SIGALRM, [](int) {
    constexpr std::string_view message = "keyloadd: the shutdown hangs and is ended here\n";
    // A reader of the log that has stopped must not keep the process, which is worth more than its last line.
    pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
    if (poll(&ready, 1, 0) == 1) {
      [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, message.data(), message.size());
    }
    _exit(watchdog_exit_code);
  });
  alarm(static_cast<unsigned>(std::clamp<int64_t>(absl::ToInt64Seconds(absl::Ceil(limit, absl::Seconds(1))), 1,
                                                  std::numeric_limits<int>::max())));
}

void DisarmWatchdog() { alarm(0); }

}  // namespace keyload
