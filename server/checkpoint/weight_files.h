#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/base/weight_names.h"
#include "server/checkpoint/header_memory.h"
#include "server/checkpoint/model_roots.h"

namespace keyload {

// The file of a directory that a load starts from.
struct WeightFile {
  enum class Kind { kNone, kSafetensors, kIndex };
  Kind kind = Kind::kNone;
  std::string name;  // in the directory
  OpenedPath opened;
};

// Picks the weights of `directory` by CheckpointSource's rules; `weights` is CheckpointSource::weights. kNone if there
// are none and `allow_no_weights`. Blocks; asks `context` in loops over entries. CHECKPOINT_NOT_FOUND,
// CHECKPOINT_AMBIGUOUS, FORMAT_NOT_SUPPORTED, BAD_REQUEST, IO_ERROR, MEMORY_EXHAUSTED and what ModelRoots::OpenIn
// returns. What listing takes stays with `charge`, which may be null.
absl::StatusOr<WeightFile> FindWeights(const ModelRoots& roots, const OpenedPath& directory, const std::string& weights,
                                       bool allow_no_weights, const RequestContext& context, HeaderCharge* charge);

// What to say of pickled weights beside `file` that are newer than it: whoever trained on saved them, and they are not
// what is loaded. Empty if there are none. Blocks.
std::string NewerPickle(const OpenedPath& directory, const WeightFile& file);

// The first sets of weights of `directory`, by file name; at most `limit`. What cannot be listed has none. Blocks.
std::vector<std::string> SetsIn(const OpenedPath& directory, size_t limit, const RequestContext& context);

}  // namespace keyload
