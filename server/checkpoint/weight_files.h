#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/checkpoint/header_memory.h"
#include "server/checkpoint/model_roots.h"

namespace keyload {

inline constexpr std::string_view kSafetensorsSuffix = ".safetensors";
inline constexpr std::string_view kIndexFileSuffix = ".safetensors.index.json";

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

}  // namespace keyload
