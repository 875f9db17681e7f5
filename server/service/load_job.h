#pragma once

#include <memory>

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
};

}  // namespace keyload
