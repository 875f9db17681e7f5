#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/checkpoint/dtype.h"
#include "server/keys/conversion.h"

namespace keyload {

enum class TensorKind : uint8_t { kParameter, kBuffer, kNonPersistentBuffer };

struct TensorSpec {
  std::string name;
  TensorKind kind = TensorKind::kParameter;
  DType dtype = DType::kF32;
  Shape shape;
  uint64_t bytes = 0;  // of dtype and shape; filled by ValidateManifest
};
struct ModuleSpec {
  std::string name;
  std::string class_name;
};
struct TiedGroup {
  std::string source;
  std::vector<std::string> targets;
};
struct Rename {
  std::string pattern;      // RE2, searched
  std::string replacement;  // first occurrence; \1 is a group
};

// What a model must have, and how checkpoint keys become its keys. Immutable once validated.
struct Manifest {
  std::string architecture;
  std::string base_model_prefix;
  std::vector<ModuleSpec> modules;  // registration order, without the root; empty: derived from dotted names
  std::vector<TensorSpec> tensors;  // registration order; tied names all appear
  std::vector<TiedGroup> tied_groups;
  std::vector<std::string> no_split_modules;  // class names
  std::vector<std::string> keep_in_fp32;      // dotted components
  std::vector<std::string> ignore_missing;    // RE2, searched
  std::vector<std::string> ignore_unexpected;
  std::vector<Rename> renames;
  std::vector<Conversion> conversions;  // after the renames; of those that match a key the first counts
};

// The memory that `manifest` takes, as far as its own sizes tell.
uint64_t MemoryBytes(const Manifest& manifest);

inline constexpr size_t kMaxManifestTensors = 10'000'000;

// Fills TensorSpec::bytes. MANIFEST_INVALID: duplicate or empty names of tensors or modules, names that no
// checkpoint can have, sizes that overflow, tied names that are not
// tensors, a name in two tied groups, conversions as CheckConversions says, more than `max_tensors`.
absl::Status ValidateManifest(Manifest& manifest, size_t max_tensors = kMaxManifestTensors);

}  // namespace keyload
