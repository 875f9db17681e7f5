#pragma once

#include <cstdint>
#include <string_view>

namespace keyload {

// The life of a model name. Published states (kLazy, kPartial, kResident) are entered after the model is usable and
// left before it is gone.
//
//   UNLOADED ─▶ LOADING ─▶ LAZY | PARTIAL | RESIDENT ─▶ UNLOADING ─▶ UNLOADED
//                  └─────▶ FAILED ─▶ LOADING
enum class ModelState : uint8_t { kUnloaded, kLoading, kLazy, kPartial, kResident, kUnloading, kFailed };
inline constexpr int kModelStateCount = 7;

std::string_view ModelStateName(ModelState state);
bool IsLegalTransition(ModelState from, ModelState to);
inline bool IsPublished(ModelState state) {
  return state == ModelState::kLazy || state == ModelState::kPartial || state == ModelState::kResident;
}

}  // namespace keyload
