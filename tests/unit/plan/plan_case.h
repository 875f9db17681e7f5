#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/keys/reconcile.h"
#include "server/plan/load_plan.h"

namespace keyload {

struct CaseTensor {
  std::string name;
  DType dtype = DType::kF32;
  uint64_t elements = 0;
  uint64_t gap_before = 0;  // bytes of other tensors in front of it
  uint32_t shard = 0;
};

// A checkpoint in memory whose own keys are expected, with the tensors at the offsets that their order gives.
std::shared_ptr<const KeyReport> MakeKeyReport(const std::vector<CaseTensor>& tensors);

// Every placed key on `device`, or the key at position i on devices[i].
Placement PlaceAll(const PlacementInput& input, const std::string& device);
Placement PlaceEach(const std::vector<std::string>& devices);

}  // namespace keyload
