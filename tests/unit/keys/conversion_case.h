#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/keys/conversion.h"
#include "tests/unit/keys/reconcile_case.h"

namespace keyload {

// As transformers has them for models with experts: gate and up of all experts in one tensor, down in another.
std::vector<Conversion> ExpertConversions();

// The stored keys of one layer's experts, each gate_proj, up_proj [3, 2] and down_proj [2, 3], expert by expert.
std::vector<StoredKey> StoredExperts(const std::vector<int>& experts, int layer = 0);

// What those make of `experts` of layer 0, with the conversions.
Manifest ExpertManifest(uint64_t experts);

inline constexpr char kGateUp[] = "model.layers.0.mlp.experts.gate_up_proj";
inline constexpr char kDown[] = "model.layers.0.mlp.experts.down_proj";

// "17.gate": what of layer 0's experts each part of `key` is; a part of a stored tensor has its range behind it, as
// "qkv.weight@16+8".
std::vector<std::string> PartsOf(const KeyReport& report, std::string_view key);

}  // namespace keyload
