#pragma once

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "server/lifecycle/model_registry.h"
#include "server/report/phase_clock.h"
#include "server/service/loader_service.h"

namespace keyload {

// A load from its claim on the model's name to its end.
struct LoaderService::Job {
  LoadSpec spec;
  std::shared_ptr<SharedLoad> load;
  ModelRegistry::Claim claim;
  ModelHandle extends;  // the model that the load makes wider; null: it makes a new one
  absl::Time start_time;
  PhaseClock clock;
  uint64_t number = 0;  // in the queue of loads
  // What is decided, kept while the load waits for memory.
  PreparedKeys keys;
  PreparedPlan plan;
  std::vector<MemoryReservation> reservations;
};

}  // namespace keyload
