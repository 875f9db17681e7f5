#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "server/store/residency.h"
#include "tests/support/fake_device.h"

namespace keyload {

using Tensors = std::vector<uint32_t>;

inline constexpr uint64_t kTensorBytes = 512;

// Tensors 0 and 1 in segment 0, 2 in segment 1, both on a GPU; 3 mapped, in segment 2.
std::shared_ptr<LoadPlan> MakePlan();

// Memory for what the claim took.
absl::StatusOr<std::vector<Segment>> Allocate(const Residency& residency, Residency::Claim& claim,
                                              const RequestContext& context = {});

// A GPU with room for four tensors, and residencies of MakePlan on it.
class ResidencyCase : public testing::Test {
 protected:
  Residency Make(Residency::State state = Residency::State::kLazy, std::vector<MemoryReservation> reserved = {}) {
    std::vector<Segment> segments = {{.device = &gpu_}, {.device = &gpu_}, {.kind = SegmentKind::kFile}};
    return Residency(
        {.plan = MakePlan(), .segments = std::move(segments), .state = state, .reserved = std::move(reserved)});
  }
  static void Load(Residency& residency, const Tensors& tensors) {
    Residency::Claim claim = residency.Begin(tensors);
    ASSERT_TRUE(Allocate(residency, claim).ok());
    claim.Commit();
  }
  // What RESERVE_NOW takes for the plan.
  std::vector<MemoryReservation> ReserveAll() {
    std::vector<MemoryReservation> kept(2);
    kept[0] = *gpu_.account().Reserve(3 * kTensorBytes);
    return kept;
  }
  uint64_t used() { return gpu_.account().state().used; }
  uint64_t reserved() { return gpu_.account().state().reserved; }

  FakeDevice gpu_{{.capacity_bytes = 4 * kTensorBytes, .fail_allocation = 0}};
};

}  // namespace keyload
