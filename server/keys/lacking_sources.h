#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "server/checkpoint/checkpoint_index.h"
#include "server/keys/conversion.h"

namespace keyload {

// Which stored keys a conversion lacks to make tensors of `shapes`, in words that name the first few; empty when it
// lacks none that can be told. inputs[i] are the stored keys of its i-th source, in natural order.
//
// A source with "*." or "\d" may have several, which differ in one number: all of them must have the same numbers,
// without a hole, and as many as the shapes say. Any other source must have one. Pure; linear in the stored keys but
// for sorting.
std::string WhatIsLacking(const CheckpointIndex& index, const Conversion& conversion,
                          std::span<const std::vector<uint32_t>> inputs, std::span<const Shape> shapes);

}  // namespace keyload
