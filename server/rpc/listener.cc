#include "server/rpc/listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include "server/base/error.h"
#include "server/base/listen_address.h"
#include "server/base/lock_file.h"
#include "server/base/log.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr int kForEver = -1;
constexpr int kFullWaitMs = 100;  // somebody has to give a descriptor back first
constexpr std::chrono::minutes kTellEvery(1);

// Where nothing can be bound without the lock, a socket that is there was left behind.
absl::StatusOr<UniqueFd> LockSocket(const std::string& address, const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!std::filesystem::exists(parent, error)) {
    std::filesystem::create_directories(parent, error);
    if (error) return CannotListen(address, StrCat(parent.string(), ": ", error.message()));
    std::filesystem::permissions(parent, std::filesystem::perms(0750), error);
  }
  absl::StatusOr<UniqueFd> lock = LockFile(path + ".lock", "another keyloadd listens there");
  if (!lock.ok()) return CannotListen(address, ToStd(lock.status().message()));
  return lock;
}

absl::Status BindUnixSocket(int socket, const std::string& address, const std::string& path, uint32_t mode) {
  sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = {}};
  if (path.size() >= sizeof(name.sun_path)) return CannotListen(address, "the path is too long for a Unix socket");
  std::copy(path.begin(), path.end(), name.sun_path);
  struct stat there = {};
  if (lstat(path.c_str(), &there) == 0 && S_ISSOCK(there.st_mode)) unlink(path.c_str());
  // Linux makes the socket with the descriptor's mode less the umask: nobody else can come in between.
  const bool bound = fchmod(socket, mode) == 0 &&
                     bind(socket, reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0 &&
                     chmod(path.c_str(), mode) == 0 && listen(socket, SOMAXCONN) == 0;
  return bound ? absl::OkStatus() : CannotListen(address, std::strerror(errno));
}

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

in_port_t PortOf(int socket) {
  sockaddr_storage name = {};
  socklen_t bytes = sizeof(name);
  getsockname(socket, reinterpret_cast<sockaddr*>(&name), &bytes);
  return ntohs(name.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in*>(&name)->sin_port
                                         : reinterpret_cast<const sockaddr_in6*>(&name)->sin6_port);
}

// Empty, with errno, where that cannot be done.
UniqueFd BindTcpSocket(const addrinfo& found) {
  UniqueFd socket(::socket(found.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return socket;
  const int on = 1;
  setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));  // connections of a daemon before linger
  if (found.ai_family == AF_INET6) {
    const auto& name = *reinterpret_cast<const sockaddr_in6*>(found.ai_addr);
    const int only = IN6_IS_ADDR_UNSPECIFIED(&name.sin6_addr) ? 0 : 1;  // [::] is reached over IPv4 too
    setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof(only));
  }
  if (bind(socket.get(), found.ai_addr, found.ai_addrlen) != 0 || listen(socket.get(), SOMAXCONN) != 0)
    return UniqueFd();
  return socket;
}

// Descriptors below this number are for connections; the rest of the table is for files, devices and answers.
int MostConnectionFd() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  return static_cast<int>(std::min<rlim_t>(limit.rlim_cur - limit.rlim_cur / 8, 1 << 30));
}

}  // namespace

Listener::Listener(std::string address, std::vector<UniqueFd> sockets, UniqueFd lock)
    : address_(std::move(address)),
      sockets_(std::move(sockets)),
      lock_(std::move(lock)),
      wake_(eventfd(0, EFD_CLOEXEC)) {}

absl::StatusOr<std::unique_ptr<Listener>> Listener::BindUnix(const std::string& path, uint32_t mode) {
  const std::string address = StrCat(kUnixPrefix, path);
  KEYLOAD_ASSIGN_OR_RETURN(UniqueFd lock, LockSocket(address, path));
  std::vector<UniqueFd> sockets;
  sockets.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!sockets[0]) return CannotListen(address, std::strerror(errno));
  KEYLOAD_RETURN_IF_ERROR(BindUnixSocket(sockets[0].get(), address, path, mode));
  return std::unique_ptr<Listener>(new Listener(address, std::move(sockets), std::move(lock)));
}

absl::StatusOr<std::unique_ptr<Listener>> Listener::BindTcp(const std::string& address) {
  const HostPort parts = SplitHostPort(address);
  const addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
  addrinfo* list = nullptr;
  const int error = getaddrinfo(parts.host.c_str(), parts.port.c_str(), &hints, &list);
  const AddressList found(list, freeaddrinfo);
  if (error != 0) return CannotListen(address, gai_strerror(error));
  std::vector<UniqueFd> sockets;
  int refused = 0;
  for (addrinfo* name = list; name != nullptr; name = name->ai_next) {
    if (!sockets.empty()) SetPort(*name->ai_addr, PortOf(sockets[0].get()));
    UniqueFd socket = BindTcpSocket(*name);
    if (socket) {
      sockets.push_back(std::move(socket));
    } else if (refused = errno; refused == EADDRINUSE) {
      break;  // another address of the name may be of a family that this machine does not have
    }
  }
  if (sockets.empty() || refused == EADDRINUSE) return CannotListen(address, std::strerror(refused));
  const std::string bound = StrCat(address.substr(0, address.rfind(':')), ":", PortOf(sockets[0].get()));
  return std::unique_ptr<Listener>(new Listener(bound, std::move(sockets), UniqueFd()));
}

Listener::~Listener() {
  if (address_.starts_with(kUnixPrefix)) unlink(address_.substr(kUnixPrefix.size()).c_str());
  if (!thread_.joinable()) return;
  eventfd_write(wake_.get(), 1);
  thread_.join();
}

void Listener::Start(OnConnection on_connection) {
  thread_ = std::thread([this, on_connection = std::move(on_connection)] { Run(on_connection); });
}

std::vector<int> Listener::Wait(bool full) {
  std::vector<pollfd> waits = {{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
  if (!full) {
    for (const UniqueFd& socket : sockets_) waits.push_back({.fd = socket.get(), .events = POLLIN, .revents = 0});
  }
  while (poll(waits.data(), waits.size(), full ? kFullWaitMs : kForEver) < 0 && errno == EINTR) {
  }
  ended_ = waits[0].revents != 0;
  std::vector<int> ready;
  for (size_t i = 1; i < waits.size(); ++i) {
    if (waits[i].revents != 0) ready.push_back(waits[i].fd);
  }
  return ready;
}

bool Listener::Accept(int socket, const OnConnection& on_connection) {
  UniqueFd connection(accept4(socket, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!connection) return errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM;
  if (connection.get() >= MostConnectionFd()) return false;
  const int on = 1;
  if (lock_.get() < 0) setsockopt(connection.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  on_connection(std::move(connection));
  return true;
}

void Listener::Run(const OnConnection& on_connection) {
  bool full = false;
  auto told = std::chrono::steady_clock::now() - 2 * kTellEvery;
  while (true) {
    const std::vector<int> ready = Wait(full);
    if (ended_) return;
    full = false;
    for (const int socket : ready) full = !Accept(socket, on_connection) || full;
    const auto now = std::chrono::steady_clock::now();
    if (!full || told > now - kTellEvery) continue;
    told = now;
    Log(LogLevel::kWarning, "connections refused",
        {{"address", address_}, {"error", std::string("the process is short of descriptors")}});
  }
}

}  // namespace keyload
