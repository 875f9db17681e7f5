#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/metrics/metrics.h"

namespace keyload {

// Shows the metrics at /metrics of a port of its own, to whoever can reach it: HTTP without TLS. Eight threads answer
// scrapes; a client that is slow has two seconds for its request. Thread-safe.
class MetricsServer {
 public:
  // Listens on "HOST:PORT", a loopback or other address of this machine or a name of one; port 0 is chosen by the
  // system. Blocks while a name is resolved. BAD_REQUEST when the address is in use or not of this machine.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(std::string_view address, const Metrics& metrics);
  // Stops listening and waits for scrapes that are being answered, at most three seconds: a client that neither sends
  // nor reads is left to a thread that ends by itself.
  ~MetricsServer();

  // As bound, with the real port.
  const std::string& address() const { return address_; }

 private:
  class Listener;
  MetricsServer(std::string address, std::shared_ptr<Listener> listener);

  const std::string address_;
  std::shared_ptr<Listener> listener_;
};

}  // namespace keyload
