#include "tests/unit/store/residency_case.h"

namespace keyload {

std::shared_ptr<LoadPlan> MakePlan() {
  auto plan = std::make_shared<LoadPlan>();
  plan->devices = {"cuda:0", "cpu"};
  plan->segments = {{.device = 0, .bytes = 2 * kTensorBytes, .tensor_bytes = 2 * kTensorBytes},
                    {.device = 0, .bytes = kTensorBytes, .tensor_bytes = kTensorBytes},
                    {.kind = SegmentKind::kFile, .device = 1, .bytes = 4096}};
  for (uint32_t i = 0; i < 4; ++i) {
    plan->tensors.push_back({.key = i,
                             .segment = i == 3 ? 2 : i / 2,
                             .segment_offset = i == 1 ? kTensorBytes : 0,
                             .bytes = kTensorBytes,
                             .file_offset = i * kTensorBytes});
  }
  return plan;
}

absl::StatusOr<std::vector<Segment>> Allocate(const Residency& residency, Residency::Claim& claim,
                                              const RequestContext& context) {
  return claim.Allocate(*SubPlan(*residency.plan(), claim.tensors()), context);
}

}  // namespace keyload
