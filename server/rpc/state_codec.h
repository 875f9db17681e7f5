#pragma once

#include "server/service/kept_state.h"

namespace keyload {

// Records as messages of proto/keyload/state/v1. Thread-safe.
const StateCodec& ProtoStateCodec();

}  // namespace keyload
