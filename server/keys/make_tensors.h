#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/keys/conversion.h"
#include "server/keys/reconcile.h"

namespace keyload {

// What comes out of a conversion.
struct MadeTensors {
  std::vector<MadeTensor> tensors;  // one for each target; those that cannot be made have no parts
  std::string misfit;               // why they cannot be made; empty when they can
};

// Runs the operations of conversions[number] over stored tensors: inputs[i] are those of its i-th source, in order and
// at least one. STACK and CONCATENATE put whole tensors behind one another; CHUNK cuts what they made. Linear in the
// parts. FIELD_NOT_SUPPORTED, which names the conversion and why, when bytes would have to be reordered inside a part.
// Pure.
absl::StatusOr<MadeTensors> MakeTensors(const CheckpointIndex& index, std::span<const Conversion> conversions,
                                        size_t number, std::span<const std::vector<uint32_t>> inputs);

}  // namespace keyload
