#pragma once

#include "absl/status/status.h"
#include "server/service/load_spec.h"
#include "server/store/resident_model.h"

namespace keyload {

// What a request must have in common with a loaded model, for the model to answer it or to be made wider by it.

// MODEL_EXISTS when `spec` asks for another source, other rules or another map than the model was made with, or wants
// no model to be there.
absl::Status CheckSameRequest(const ResidentModel& model, const LoadSpec& spec);

// CHECKPOINT_CHANGED when a file of the model is not the one that it was loaded from.
absl::Status CheckSameFiles(const ResidentModel& model);

// The same for `keys`, which were reconciled anew with those of the model as what they widen. MODEL_EXISTS too, when a
// manifest that was read again expects other keys, or would give a tied key the bytes of another tensor.
absl::Status CheckSameKeys(const ResidentModel& model, const KeyReport& keys);

}  // namespace keyload
