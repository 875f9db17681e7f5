#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/keys/key_selection.h"
#include "server/keys/manifest.h"

namespace keyload {

// Rules of a request, added to those of the manifest; the request's renames come first.
struct KeyRules {
  std::optional<std::string> base_model_prefix;  // overrides the manifest's
  std::vector<Rename> renames;
  bool rename_auto = false;  // apply a rename that is found where all that is missing matches by it
  std::vector<std::string> ignore_missing;
  std::vector<std::string> ignore_unexpected;
};

enum class KeyState : uint8_t {
  kFound,  // expected, selected, stored with the expected shape: to be loaded
  kTied,   // not stored itself, supplied by tied_to
  kMissing,
  kMissingIgnored,  // by a pattern
  kMismatched,      // stored with another shape; not loaded
  kNotSelected,
  kNonPersistent,  // a non-persistent buffer: placed, never expected
};

// One key that the model has, in registration order.
struct ModelKey {
  std::string_view name;  // model side; lives in the KeyReport
  Shape shape;            // expected; as stored when the checkpoint itself is what is expected
  uint64_t bytes = 0;     // of `shape` in `dtype`; 0 when unknown (a key that only the index file names)
  int64_t stored =
      -1;             // index into CheckpointIndex::tensors(), set for kFound and kMismatched; the first of a made key
  int64_t made = -1;  // index into KeyReport::made, where a conversion makes the key
  int64_t tied_to = -1;  // index into KeyReport::keys: who supplies a kTied key
  int32_t tied_group = -1;
  TensorKind kind = TensorKind::kParameter;
  KeyState state = KeyState::kFound;
  DType dtype = DType::kF32;  // expected
};

// A range of a stored tensor's bytes.
struct KeyPart {
  uint32_t stored = 0;  // index into CheckpointIndex::tensors()
  uint64_t offset = 0;  // in the stored tensor
  uint64_t bytes = 0;
};

// What a conversion makes of stored tensors: its bytes are those of the parts, one behind the other. Without parts it
// cannot be made, and `shape` is that of the stored tensor which does not fit.
struct MadeTensor {
  Shape shape;
  DType dtype = DType::kF32;
  uint64_t bytes = 0;
  std::vector<KeyPart> parts;
};

struct UnexpectedKey {
  std::string_view name;  // after renames
  int64_t stored = -1;
  bool ignored = false;  // by a pattern, or because it is a non-persistent buffer of the model
};

struct KeyCounts {
  uint64_t expected = 0;
  uint64_t selected = 0;
  uint64_t not_selected = 0;
  uint64_t loaded = 0;       // filled by the load
  uint64_t lazy = 0;         // filled by the load
  uint64_t initialized = 0;  // filled by the load
  uint64_t missing = 0;      // after the filters below
  uint64_t missing_ignored = 0;
  uint64_t missing_tied = 0;
  uint64_t unexpected = 0;  // after the filter below
  uint64_t unexpected_ignored = 0;
  uint64_t mismatched = 0;
  uint64_t tied_conflicts = 0;  // filled by the load
};

// The answer about keys: a pure function of headers, manifest, rules and selection. Immutable.
struct KeyReport {
  // What is stored of a key with `stored` >= 0, as it is or as a conversion makes it.
  const Shape& StoredShape(const ModelKey& key) const;
  DType StoredDType(const ModelKey& key) const;
  uint64_t StoredBytes(const ModelKey& key) const;
  // In the order of the key's bytes; of a key that no conversion makes the one whole stored tensor.
  absl::InlinedVector<KeyPart, 1> PartsOf(const ModelKey& key) const;
  bool Fits(const ModelKey& key) const;  // what is stored has the key's shape

  std::vector<ModelKey> keys;  // registration order; without a manifest natural order
  std::vector<MadeTensor> made;
  std::vector<UnexpectedKey> unexpected;  // natural order, ignored ones included
  KeyCounts counts;
  std::vector<std::vector<uint32_t>> tied_groups;  // members as indices into keys, source first
  std::vector<std::string> warnings;
  // What the names point into.
  std::shared_ptr<const CheckpointIndex> index;
  std::shared_ptr<const Manifest> manifest;  // null: expected from the checkpoint
  std::vector<std::shared_ptr<const std::string>> name_blocks;
};

// What the report takes of the heap, without what its names point into but its own blocks.
uint64_t MemoryBytes(const KeyReport& report);

struct ReconcileInput {
  std::shared_ptr<const CheckpointIndex> index;
  std::shared_ptr<const Manifest> manifest;  // null: expect what the checkpoint has
  KeyRules rules;
  const KeySelection* selection = nullptr;  // never null
  // What a loaded model has, when it is made wider: what was selected is selected too, and a tied group has its bytes
  // from where it has them already. Counts only with the same keys in the same order. Nothing of the report points into
  // it.
  const KeyReport* widened = nullptr;
  // Asked now and then, as many patterns over many keys take long; null: never.
  const RequestContext* context = nullptr;
};

// Where keys are missing and others unexpected because all names differ in one place, a warning says by which rename
// they would match, and rules.rename_auto applies it. Renames, prefix, tied groups, filters and shapes, decided for
// every key in one pass each over both sides. Reads nothing, never blocks. PATTERN_INVALID; KEY_CONFLICT when two
// stored keys become one model key, or one part of it (both are named, with their shards); FIELD_NOT_SUPPORTED when
// stored keys need a conversion that would reorder bytes; LOAD_CANCELLED and DEADLINE_EXCEEDED of the context.
absl::StatusOr<std::shared_ptr<const KeyReport>> Reconcile(const ReconcileInput& input);

}  // namespace keyload
