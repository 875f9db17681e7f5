#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/error.h"
#include "server/report/load_report.h"

namespace prometheus {
class Collectable;
}

namespace keyload {

// What the daemon counts and shows to Prometheus; docs/metrics.md has the table. Every family, and every label value
// that is known beforehand, is there from the start with 0. No label holds a model's name, its path or a key.
// Thread-safe; what records an event takes no lock that a scrape holds for long, and never blocks.
class Metrics {
 public:
  struct Options {
    std::vector<std::string> methods;          // short names of the calls that are told apart; others are "other"
    std::map<std::string, std::string> build;  // labels of keyload_build_info
  };
  explicit Metrics(const Options& options);
  ~Metrics();

  // A load begins, and ends. Its end counts outcome, phases, keys and bytes; a load without a report is "cancelled" for
  // LOAD_CANCELLED and DEADLINE_EXCEEDED, and "error" for any other reason.
  void LoadStarted();
  void LoadEnded(const absl::StatusOr<LoadReport>& result);
  // A request that became no load: it counts as one that started and ended at once with an error.
  void LoadRefused();
  // A request that another load, or the loaded model, answers.
  void LoadJoined();
  // The same for a call that makes keys resident; only its outcome is counted.
  void MaterializationStarted();
  void MaterializationEnded(const absl::StatusOr<LoadReport>& result);
  // Of lazy keys that a call made resident, or that were read.
  void BytesLoaded(const ByteCounts& bytes);
  void Evicted(uint64_t bytes);
  void Unloaded(uint64_t bytes);
  void DeviceMapSet();
  void DeviceMapDeleted();

  // A call of gRPC, by its short name.
  void CallStarted(std::string_view method);
  void CallEnded(std::string_view method, absl::StatusCode code, absl::Duration duration);

  // A call is refused for who makes it: TOKEN_MISSING, TOKEN_INVALID or ROLE_INSUFFICIENT. Other reasons are not
  // counted.
  void AuthenticationFailed(Reason reason);
  void ConnectionRefused();  // a peer that may not connect to the Unix socket

  // What is looked up at each scrape.
  struct DeviceMemory {
    std::string device;
    uint64_t capacity = 0;
    uint64_t used = 0;
    uint64_t reserved = 0;
    uint64_t free = 0;
  };
  struct TlsCertificate {
    absl::Time expiry;     // of the certificate that is served
    bool current = false;  // it is the one on the disk
    uint64_t reload_failures = 0;
  };
  struct Sample {
    uint64_t inflight_loads = 0;
    uint64_t waiting_for_thread = 0;
    uint64_t waiting_for_memory = 0;
    std::vector<DeviceMemory> devices;
    std::vector<std::pair<std::string_view, uint64_t>> models;  // number per state; the state's name is static
    std::optional<TlsCertificate> tls;                          // absent without TLS
    uint64_t lost_log_lines = 0;                                // that nobody read in time, since the start
    uint64_t lost_audit_lines = 0;
    std::vector<std::pair<std::string, uint64_t>> stuck_storage;  // operations that do not end, per mount, no others
  };
  using Sampler = std::function<Sample()>;
  // `sampler` is called now, and at each scrape, on the scrape's thread, until it is replaced: when this returns the
  // one before is not called any more. It must be short. Null: the values stay as they are.
  void SetSampler(Sampler sampler);

  // The page, in Prometheus's text format.
  std::string Text() const;
  // The same for MetricsServer; it outlives the Metrics if it must.
  std::shared_ptr<prometheus::Collectable> page() const;

 private:
  class Page;
  const std::shared_ptr<Page> page_;
};

}  // namespace keyload
