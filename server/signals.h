#pragma once

#include <csignal>

#include "absl/time/time.h"

namespace keyload {

// SIGTERM, SIGINT and SIGHUP are blocked before the first constructor of a library runs, so that none of them ends a
// daemon that is still starting, and every thread inherits that. They wait until the main thread takes them by sigwait.
struct Signals {
  sigset_t all;
  sigset_t ending;  // those that end the daemon
};
Signals BlockedSignals();

// True when one of `signals` came within `timeout`.
bool WaitForSignal(const sigset_t& signals, absl::Duration timeout);

// Ends the process `limit` from now with `exit_code`, whatever hangs then (a dead network file system). Set again, it
// counts anew.
void ArmWatchdog(absl::Duration limit, int exit_code);
void DisarmWatchdog();

}  // namespace keyload
