#include "server/lifecycle/model_state.h"

namespace keyload {
namespace {

constexpr uint8_t Bit(ModelState state) { return static_cast<uint8_t>(1u << static_cast<int>(state)); }
constexpr uint8_t kPublished = Bit(ModelState::kLazy) | Bit(ModelState::kPartial) | Bit(ModelState::kResident);

// Indexed by the state that is left.
constexpr uint8_t kSuccessors[kModelStateCount] = {
    /*kUnloaded*/ Bit(ModelState::kLoading),
    /*kLoading*/ static_cast<uint8_t>(kPublished | Bit(ModelState::kFailed)),
    /*kLazy*/ Bit(ModelState::kUnloading),
    /*kPartial*/ Bit(ModelState::kUnloading),
    /*kResident*/ Bit(ModelState::kUnloading),
    /*kUnloading*/ Bit(ModelState::kUnloaded),
    /*kFailed*/ static_cast<uint8_t>(Bit(ModelState::kLoading) | Bit(ModelState::kUnloaded)),
};

}  // namespace

std::string_view ModelStateName(ModelState state) {
  constexpr std::string_view kNames[] = {"UNLOADED", "LOADING", "LAZY", "PARTIAL", "RESIDENT", "UNLOADING", "FAILED"};
  return kNames[static_cast<int>(state)];
}

bool IsLegalTransition(ModelState from, ModelState to) { return (kSuccessors[static_cast<int>(from)] & Bit(to)) != 0; }

}  // namespace keyload
