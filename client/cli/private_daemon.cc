#include "client/cli/private_daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "client/cli/exit_code.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

constexpr char kDaemonName[] = "keyloadd";
constexpr absl::Duration kStopGrace = absl::Seconds(10);
constexpr absl::Duration kPollInterval = absl::Milliseconds(10);

// Runs in the child between fork and exec: only calls that are safe there.
[[noreturn]] void ExecDaemon(char* const* argv, char* const* environment, pid_t parent) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(kExitFailed);  // the parent died before it was watched
  ::setpgid(0, 0);                                  // a Ctrl-C is ours to handle, not the daemon's
  ::dup2(STDERR_FILENO, STDOUT_FILENO);             // standard output belongs to the report
  ::execve(argv[0], argv, environment);
  ::_exit(kExitFailed);
}

}  // namespace

std::string FindDaemon(const std::string& search_path) {
  std::vector<std::filesystem::path> folders;
  std::error_code error;
  auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) folders.push_back(self.parent_path());
  for (const std::string& folder : std::vector<std::string>(absl::StrSplit(search_path, ':', absl::SkipEmpty()))) {
    folders.emplace_back(folder);
  }
  for (const auto& folder : folders) {
    std::string program = (folder / kDaemonName).string();
    if (::access(program.c_str(), X_OK) == 0) return program;
  }
  return "";
}

absl::StatusOr<std::unique_ptr<PrivateDaemon>> PrivateDaemon::Start(const std::string& program,
                                                                    const CallOptions& options) {
  if (program.empty()) return UsageError("keyloadd is neither beside keyload nor on PATH");
  std::error_code error;
  std::string folder = (std::filesystem::temp_directory_path(error) / "keyload-check.XXXXXX").string();
  if (error || ::mkdtemp(folder.data()) == nullptr) return UsageError("no temporary folder can be made: " + folder);
  std::unique_ptr<PrivateDaemon> daemon(new PrivateDaemon(std::move(folder)));
  KEYLOAD_RETURN_IF_ERROR(daemon->Spawn(program));
  KEYLOAD_RETURN_IF_ERROR(daemon->WaitUntilServing(options));
  return daemon;
}

absl::Status PrivateDaemon::Spawn(const std::string& program) {
  std::vector<std::string> arguments = {program, "--listen", address_, "--model-root", "/", "--log-level", "error"};
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::vector<char*> environment;  // without settings that are meant for another daemon, but for where templates are
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view setting = *entry;
    if (!setting.starts_with("KEYLOADD_") || setting.starts_with("KEYLOADD_TEMPLATE_DIR="))
      environment.push_back(*entry);
  }
  environment.push_back(nullptr);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) ExecDaemon(argv.data(), environment.data(), parent);
  if (pid_ < 0) return absl::ErrnoToStatus(errno, "fork");
  process_ = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  if (!process_) return absl::ErrnoToStatus(errno, "pidfd_open");
  return absl::OkStatus();
}

absl::Status PrivateDaemon::WaitUntilServing(const CallOptions& options) {
  const absl::Time deadline = absl::Now() + options.timeout;
  KEYLOAD_ASSIGN_OR_RETURN(auto client, Client::Connect({.address = address_}));
  const std::string socket = folder_ + "/keyload.sock";
  while (true) {
    if (::access(socket.c_str(), F_OK) == 0) {
      auto health = client->Health("", {.timeout = deadline - absl::Now(), .stop = options.stop});
      if (health.ok() && *health == ServingStatus::kServing) return absl::OkStatus();
    }
    // The wait ends early with the daemon, so one that cannot start is noticed at once.
    if (WaitForEnd(kPollInterval)) return absl::InternalError("the private keyloadd ended before it served");
    if (options.stop.stop_requested()) return absl::CancelledError("stopped while the private keyloadd was starting");
    if (absl::Now() > deadline) return absl::DeadlineExceededError("the private keyloadd did not serve in time");
  }
}

bool PrivateDaemon::WaitForEnd(absl::Duration timeout) const {
  const absl::Time end = absl::Now() + timeout;
  while (true) {
    pollfd watched{.fd = process_.get(), .events = POLLIN, .revents = 0};
    absl::Duration rest = std::max(end - absl::Now(), absl::ZeroDuration());
    int ready = ::poll(&watched, 1, static_cast<int>(absl::ToInt64Milliseconds(rest)));
    if (ready >= 0 || errno != EINTR) return ready > 0;
  }
}

PrivateDaemon::~PrivateDaemon() {
  if (pid_ > 0) {
    ::kill(pid_, SIGTERM);
    if (!process_ || !WaitForEnd(kStopGrace)) ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

}  // namespace keyload::cli
