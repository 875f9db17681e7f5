#include "client/cli/signal_watcher.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "client/cli/exit_code.h"

namespace keyload::cli {

absl::StatusOr<std::unique_ptr<SignalWatcher>> SignalWatcher::Create() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, signal);
  if (int error = pthread_sigmask(SIG_BLOCK, &set, nullptr); error != 0) return absl::ErrnoToStatus(error, "sigmask");
  UniqueFd signals(::signalfd(-1, &set, SFD_CLOEXEC));
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC));
  if (!signals || !wake) return absl::ErrnoToStatus(errno, "signalfd");
  std::unique_ptr<SignalWatcher> watcher(new SignalWatcher(std::move(signals), std::move(wake)));
  watcher->thread_ = std::thread([raw = watcher.get()] { raw->Watch(); });
  return watcher;
}

SignalWatcher::~SignalWatcher() {
  uint64_t one = 1;
  while (::write(wake_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
  thread_.join();
}

void SignalWatcher::Watch() {
  pollfd watched[] = {{.fd = signals_.get(), .events = POLLIN, .revents = 0},
                      {.fd = wake_.get(), .events = POLLIN, .revents = 0}};
  while (true) {
    if (::poll(watched, 2, -1) < 0) continue;
    if (watched[1].revents != 0) return;
    signalfd_siginfo info;
    if (::read(signals_.get(), &info, sizeof(info)) != sizeof(info)) continue;
    if (stop_.stop_requested()) ::_exit(kExitCancelled);
    stop_.request_stop();
  }
}

}  // namespace keyload::cli
