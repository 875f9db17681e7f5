#include "server/rpc/unix_listener.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include "server/base/error.h"
#include "server/base/lock_file.h"
#include "server/base/log.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr int kForEver = -1;
constexpr int kFullWaitMs = 100;  // no descriptor is free: somebody has to give one back first

absl::Status CannotBind(const std::string& path, std::string_view why) {
  return MakeError(Reason::kBadRequest, StrCat("cannot listen on unix:", path, ": ", why),
                   {{"address", StrCat("unix:", path)}});
}

// Where nothing can be bound without the lock, a socket that is there was left behind.
absl::StatusOr<UniqueFd> LockSocket(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!std::filesystem::exists(parent, error)) {
    std::filesystem::create_directories(parent, error);
    if (error) return CannotBind(path, StrCat(parent.string(), ": ", error.message()));
    std::filesystem::permissions(parent, std::filesystem::perms(0750), error);
  }
  absl::StatusOr<UniqueFd> lock = LockFile(path + ".lock", "another keyloadd listens there");
  if (!lock.ok()) return CannotBind(path, ToStd(lock.status().message()));
  return lock;
}

absl::Status BindAndListen(int socket, const std::string& path, uint32_t mode) {
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  if (path.size() >= sizeof(address.sun_path)) return CannotBind(path, "the path is too long for a Unix socket");
  std::copy(path.begin(), path.end(), address.sun_path);
  struct stat there = {};
  if (lstat(path.c_str(), &there) == 0 && S_ISSOCK(there.st_mode)) unlink(path.c_str());
  // Linux makes the socket with the descriptor's mode less the umask: nobody else can come in between.
  const bool bound = fchmod(socket, mode) == 0 &&
                     bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 &&
                     chmod(path.c_str(), mode) == 0 && listen(socket, SOMAXCONN) == 0;
  return bound ? absl::OkStatus() : CannotBind(path, std::strerror(errno));
}

}  // namespace

UnixListener::UnixListener(std::string path, UniqueFd lock, UniqueFd socket, UniqueFd wake)
    : path_(std::move(path)), lock_(std::move(lock)), socket_(std::move(socket)), wake_(std::move(wake)) {}

absl::StatusOr<std::unique_ptr<UnixListener>> UnixListener::Bind(const std::string& path, uint32_t mode) {
  KEYLOAD_ASSIGN_OR_RETURN(UniqueFd lock, LockSocket(path));
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  UniqueFd wake(eventfd(0, EFD_CLOEXEC));
  if (!socket || !wake) return CannotBind(path, std::strerror(errno));
  KEYLOAD_RETURN_IF_ERROR(BindAndListen(socket.get(), path, mode));
  return std::unique_ptr<UnixListener>(new UnixListener(path, std::move(lock), std::move(socket), std::move(wake)));
}

UnixListener::~UnixListener() {
  Unlink();
  if (!thread_.joinable()) return;
  eventfd_write(wake_.get(), 1);
  thread_.join();
}

void UnixListener::Unlink() { unlink(path_.c_str()); }

void UnixListener::Start(OnConnection on_connection) {
  thread_ = std::thread([this, on_connection = std::move(on_connection)] { Run(on_connection); });
}

bool UnixListener::Wait(int timeout_ms) {
  pollfd waits[] = {{.fd = wake_.get(), .events = POLLIN, .revents = 0},
                    {.fd = socket_.get(), .events = POLLIN, .revents = 0}};
  while (poll(waits, timeout_ms == kForEver ? 2 : 1, timeout_ms) < 0 && errno == EINTR) {
  }
  return waits[0].revents == 0;
}

void UnixListener::Run(const OnConnection& on_connection) {
  bool full = false;
  while (Wait(full ? kFullWaitMs : kForEver)) {
    UniqueFd connection(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection) {
      full = false;
      on_connection(std::move(connection));
      continue;
    }
    const bool lacks = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
    if (lacks && !full) {
      Log(LogLevel::kWarning, "accept", {{"socket", path_}, {"error", std::string(std::strerror(errno))}});
    }
    full = lacks;
  }
}

}  // namespace keyload
