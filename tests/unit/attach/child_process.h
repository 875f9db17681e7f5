#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

namespace keyload {

// A forked process that runs a function and ends with its result. Killed when the object goes. In the child nothing of
// gtest may be used: it says what failed on standard error.
class ChildProcess {
 public:
  template <typename Function>
  explicit ChildProcess(Function&& function) : pid_(fork()) {
    if (pid_ == 0) _exit(function());
  }
  ChildProcess(ChildProcess&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  ChildProcess& operator=(ChildProcess&& other) noexcept {
    std::swap(pid_, other.pid_);
    return *this;
  }
  ~ChildProcess() {
    if (pid_ <= 0) return;
    Kill();
  }

  pid_t pid() const { return pid_; }
  // Its exit code; -1 where a signal ended it.
  int Wait() {
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  void Kill() {
    kill(pid_, SIGKILL);
    Wait();
  }

 private:
  pid_t pid_;
};

// In a child: ends it with 1 and says why, unless `holds`.
inline void ChildRequires(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "child %d: %s\n", static_cast<int>(getpid()), what);
  _exit(1);
}

}  // namespace keyload
