#include "server/lifecycle/model_state.h"

namespace keyload {
namespace {

constexpr uint8_t Bit(ModelState state) { return static_cast<uint8_t>(1u << static_cast<int>(state)); }
constexpr uint8_t Or(uint8_t a, uint8_t b, uint8_t c = 0) { return static_cast<uint8_t>(a | b | c); }
constexpr uint8_t kPublished = Or(Bit(ModelState::kLazy), Bit(ModelState::kPartial), Bit(ModelState::kResident));
constexpr uint8_t kLeave = Or(Bit(ModelState::kReplacing), Bit(ModelState::kUnloading));

// Indexed by the state that is left.
constexpr uint8_t kSuccessors[kModelStateCount] = {
    /*kUnloaded*/ Bit(ModelState::kLoading),
    /*kLoading*/ Or(kPublished, Bit(ModelState::kFailed)),
    /*kLazy*/ Or(Bit(ModelState::kPartial), Bit(ModelState::kResident), kLeave),
    /*kPartial*/ Or(Bit(ModelState::kLazy), Bit(ModelState::kResident), kLeave),
    /*kResident*/ Or(Bit(ModelState::kLazy), Bit(ModelState::kPartial), kLeave),
    /*kReplacing*/ kPublished,
    /*kUnloading*/ Bit(ModelState::kUnloaded),
    /*kFailed*/ Or(Bit(ModelState::kLoading), Bit(ModelState::kUnloaded)),
};

}  // namespace

std::string_view ModelStateName(ModelState state) {
  constexpr std::string_view kNames[] = {"UNLOADED", "LOADING",   "LAZY",      "PARTIAL",
                                         "RESIDENT", "REPLACING", "UNLOADING", "FAILED"};
  return kNames[static_cast<int>(state)];
}

bool IsLegalTransition(ModelState from, ModelState to) { return (kSuccessors[static_cast<int>(from)] & Bit(to)) != 0; }

}  // namespace keyload
