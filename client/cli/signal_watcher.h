#pragma once

#include <csignal>
#include <memory>
#include <stop_token>
#include <thread>

#include "absl/status/statusor.h"
#include "server/base/fd.h"

namespace keyload::cli {

// Turns the first SIGINT, SIGTERM or SIGHUP into a stop request; the second ends the program with exit code 5 at once.
// Make it before any other thread, so that all inherit the blocked signals. Thread-safe.
class SignalWatcher {
 public:
  static absl::StatusOr<std::unique_ptr<SignalWatcher>> Create();
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;

  std::stop_token token() const { return stop_.get_token(); }

 private:
  SignalWatcher(UniqueFd signals, UniqueFd wake) : signals_(std::move(signals)), wake_(std::move(wake)) {}
  void Watch();

  const UniqueFd signals_;
  const UniqueFd wake_;
  std::stop_source stop_;
  std::thread thread_;
};

}  // namespace keyload::cli
