#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/access/peer.h"
#include "server/base/mutex.h"
#include "server/checkpoint/current_roots.h"
#include "server/config/config.h"
#include "server/io/page_cache_hold.h"
#include "server/service/load_queue.h"

namespace keyload {

// What `config` gives to page cache that is kept locked, in bytes.
uint64_t HoldMemoryBytes(const Config& config);
PeerRules AllowedPeers(const Config& config);

// Reads the configuration again and puts in force what may change while the daemon runs. Thread-safe.
class Reload {
 public:
  using Read = std::function<absl::StatusOr<Config>()>;
  // What the settings act on; all of it outlives this.
  struct Targets {
    CurrentRoots* roots = nullptr;
    CurrentPeerRules* peers = nullptr;
    HoldBudget* held = nullptr;
    LoadQueue* loads = nullptr;
  };
  // `running`: what the daemon was started with.
  Reload(const Config& running, Read read, const Targets& targets)
      : read_(std::move(read)), targets_(targets), config_(running) {}

  // All or nothing: a configuration that is not valid, or whose roots cannot be resolved, changes nothing. The log says
  // what changed, what needs a restart, or what is wrong. Roots are resolved again even where their names stayed. Loads
  // and plans that have opened their checkpoint go on as they are. Blocks on files.
  void Run();

  // As it is in force.
  Config config() const {
    MutexLock lock(mutex_);
    return config_;
  }

 private:
  const Read read_;
  const Targets targets_;
  mutable Mutex mutex_;
  Config config_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
