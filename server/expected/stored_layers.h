#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/keys/manifest.h"

namespace keyload {

// Quantised weights come in more forms than templates can know. What a layer with a quantised weight must have can be
// read from the layers like it: those with the same last name (q_proj of all blocks) store the same tensors. So a layer
// that lacks one of them is told from one that was left in floating point, whatever the method is.

// Whether a tensor of the checkpoint has a dtype that only quantised weights and what belongs to them have.
bool StoresQuantisedTensors(const CheckpointIndex& index);

struct StoredLayers {
  enum class Verdict {
    kAsDerived,      // the layers are what the manifests say
    kFollowed,       // `manifest` has for each layer what those like it store
    kNotUnderstood,  // quantised tensors are under names that the model does not have
  };
  Verdict verdict = Verdict::kAsDerived;
  Manifest manifest;    // kFollowed; not validated
  std::string summary;  // but for kAsDerived: what was found, as the end of a sentence
};

// Compares the layers of `plain`, the manifest without any quantization, with what `index` has of them. `quantised` is
// what a method's template made of it, in the same order of modules; null: no method, or no template for it. `named`:
// the configuration says that there are quantised weights. Linear in the names of both. The context's errors.
absl::StatusOr<StoredLayers> FollowStoredLayers(const Manifest& plain, const Manifest* quantised, bool named,
                                                const CheckpointIndex& index, const RequestContext* context);

}  // namespace keyload
