#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/keys/reconcile.h"

namespace keyload {

struct StoredKey {
  StoredKey(std::string key, Shape key_shape = {2},
            DType key_dtype = DType::kF32)  // NOLINT: a name alone is a stored key
      : name(std::move(key)), shape(std::move(key_shape)), dtype(key_dtype) {}
  StoredKey(const char* key) : StoredKey(std::string(key)) {}  // NOLINT

  std::string name;
  Shape shape;
  DType dtype;
  uint32_t shard = 0;
};

// An index of two shards, "a.safetensors" and "b.safetensors", without files.
std::shared_ptr<const CheckpointIndex> MakeIndex(const std::vector<StoredKey>& keys,
                                                 std::vector<std::string> index_only = {}, StoredAliases aliases = {});

TensorSpec Parameter(std::string name, Shape shape = {2}, DType dtype = DType::kF32);
TensorSpec NonPersistent(std::string name);
// Parameters of shape [2].
std::vector<TensorSpec> Parameters(const std::vector<std::string>& names);

// One reconciliation, described by its parts. `manifest` counts only with `has_manifest`.
struct ReconcileCase {
  std::vector<StoredKey> stored;
  std::vector<std::string> index_only;
  StoredAliases aliases;  // of both shards
  bool has_manifest = true;
  Manifest manifest;
  KeyRules rules;
  KeySelectionSpec selection;
  std::shared_ptr<const KeyReport> widened = nullptr;
  const RequestContext* context = nullptr;

  absl::StatusOr<std::shared_ptr<const KeyReport>> Run() const;
  // Run, which must succeed.
  std::shared_ptr<const KeyReport> Report() const;
};

// Names of the keys in `state`, in the report's order.
std::vector<std::string> NamesIn(const KeyReport& report, KeyState state);
std::vector<std::string> Names(const KeyReport& report);
// Names of the unexpected keys that are reported, and of those that are filtered.
std::vector<std::string> Unexpected(const KeyReport& report);
std::vector<std::string> UnexpectedIgnored(const KeyReport& report);
const ModelKey& KeyNamed(const KeyReport& report, std::string_view name);
// What `name` is loaded from, or "".
std::string StoredFor(const KeyReport& report, std::string_view name);

}  // namespace keyload
