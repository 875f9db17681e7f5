#include "server/metrics/metrics_server.h"

#include <netdb.h>
#include <prometheus/exposer.h>
#include <sys/socket.h>

#include <cstring>
#include <exception>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "server/base/error.h"
#include "server/base/fd.h"
#include "server/base/listen_address.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr std::chrono::seconds kCloseLimit(3);
constexpr std::chrono::milliseconds kWakeInterval(20);

struct Endpoint {
  sockaddr_storage address = {};
  socklen_t length = 0;
  std::string host;  // in digits, as the HTTP server takes it; brackets around IPv6
};

absl::StatusOr<Endpoint> ResolveHost(std::string_view address, const std::string& host) {
  const addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), nullptr, &hints, &found); error != 0) {
    return CannotListen(address, gai_strerror(error));
  }
  Endpoint endpoint = {.length = found->ai_addrlen};
  memcpy(&endpoint.address, found->ai_addr, found->ai_addrlen);
  char digits[NI_MAXHOST] = {};
  const int error = getnameinfo(found->ai_addr, found->ai_addrlen, digits, sizeof(digits), nullptr, 0, NI_NUMERICHOST);
  freeaddrinfo(found);
  if (error != 0) return CannotListen(address, gai_strerror(error));
  endpoint.host = endpoint.address.ss_family == AF_INET6 ? StrCat("[", digits, "]") : std::string(digits);
  return endpoint;
}

}  // namespace

class MetricsServer::Listener {
 public:
  // Throws what the HTTP server throws.
  Listener(const Endpoint& endpoint, std::string_view port, const Metrics& metrics)
      : bound_(endpoint.address),
        bound_length_(endpoint.length),
        page_(metrics.page()),
        exposer_(std::make_unique<prometheus::Exposer>(
            std::vector<std::string>{"listening_ports", StrCat(endpoint.host, ":", port), "num_threads", "8",
                                     "request_timeout_ms", "2000", "enable_keep_alive", "no"})) {
    exposer_->RegisterCollectable(page_);
    SetPort(reinterpret_cast<sockaddr&>(bound_), static_cast<uint16_t>(this->port()));
  }

  int port() const { return exposer_->GetListeningPorts().front(); }

  void Close() { exposer_.reset(); }

  // The HTTP server looks whether it should end when a client comes, else every two seconds.
  void Wake() const {
    const UniqueFd client(socket(bound_.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    [[maybe_unused]] const int connected =
        connect(client.get(), reinterpret_cast<const sockaddr*>(&bound_), bound_length_);
  }

 private:
  sockaddr_storage bound_;
  const socklen_t bound_length_;
  const std::shared_ptr<prometheus::Collectable> page_;  // the exposer does not keep it
  std::unique_ptr<prometheus::Exposer> exposer_;
};

MetricsServer::MetricsServer(std::string address, std::shared_ptr<Listener> listener)
    : address_(std::move(address)), listener_(std::move(listener)) {}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(std::string_view address, const Metrics& metrics) {
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos) return CannotListen(address, "expected HOST:PORT");
  const HostPort parts = SplitHostPort(address);
  KEYLOAD_ASSIGN_OR_RETURN(const Endpoint endpoint, ResolveHost(address, parts.host));
  try {
    auto listener = std::make_shared<Listener>(endpoint, parts.port, metrics);
    std::string bound = StrCat(address.substr(0, colon), ":", listener->port());
    return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(bound), std::move(listener)));
  } catch (const std::exception&) {  // whose text says no more
    return CannotListen(address, "the address is in use or not of this machine");
  }
}

MetricsServer::~MetricsServer() {
  std::promise<void> closed;
  const std::future<void> end = closed.get_future();
  std::thread closer([listener = listener_, closed = std::move(closed)]() mutable {
    listener->Close();
    closed.set_value();
  });
  const auto limit = std::chrono::steady_clock::now() + kCloseLimit;
  while (end.wait_for(kWakeInterval) != std::future_status::ready) {
    if (std::chrono::steady_clock::now() > limit) {
      closer.detach();
      return;
    }
    listener_->Wake();
  }
  closer.join();
}

}  // namespace keyload
