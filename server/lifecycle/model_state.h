#pragma once

#include <cstdint>
#include <string_view>

namespace keyload {

// The life of a model name. Published states (kLazy, kPartial, kResident) are entered after the model is usable and
// left before it is gone; which of them follows from what is resident.
//
//   UNLOADED ─▶ LOADING ─▶ LAZY | PARTIAL | RESIDENT ─▶ UNLOADING ─▶ UNLOADED
//                  │          ▲ │  (to one another)
//                  │          │ ▼
//                  │        REPLACING
//                  └─────▶ FAILED ─▶ LOADING
enum class ModelState : uint8_t { kUnloaded, kLoading, kLazy, kPartial, kResident, kReplacing, kUnloading, kFailed };
inline constexpr int kModelStateCount = 8;

std::string_view ModelStateName(ModelState state);
bool IsLegalTransition(ModelState from, ModelState to);
inline bool IsPublished(ModelState state) {
  return state == ModelState::kLazy || state == ModelState::kPartial || state == ModelState::kResident;
}

}  // namespace keyload
