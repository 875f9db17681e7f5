#include "server/keys/key_mapping.h"

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"
#include "server/base/error.h"
#include "server/checkpoint/natural_order.h"
#include "server/keys/key_converter.h"
#include "server/keys/stored_aliases.h"

namespace keyload {
namespace {

struct NamedTensor {
  std::string_view name;  // model side
  int64_t stored = -1;
};

ModelKey StoredAsExpected(const CheckpointIndex& index, const NamedTensor& named) {
  if (named.stored < 0) return ModelKey{.name = named.name, .shape = {}};
  const StoredTensor& tensor = index.tensors()[named.stored];
  return ModelKey{
      .name = named.name, .shape = tensor.shape, .bytes = tensor.bytes, .stored = named.stored, .dtype = tensor.dtype};
}

// What the index file names and no shard that is there has, without names that a stored key has after the renames.
absl::Status AppendIndexOnly(const CheckpointIndex& index, const RenameRules& renames, NameArena& arena,
                             SearchWork& work, PeriodicCheck& check, std::vector<NamedTensor>& entries) {
  absl::flat_hash_set<std::string_view> taken;
  if (!renames.empty()) {
    for (const NamedTensor& entry : entries) taken.insert(entry.name);
  }
  const auto append = [&](std::string_view name) -> absl::Status {
    KEYLOAD_RETURN_IF_ERROR(check.Check(renames.CostOf(name)));
    KEYLOAD_ASSIGN_OR_RETURN(const std::string_view renamed, renames.Apply(name, arena, work));
    if (renames.empty() || taken.insert(renamed).second) entries.push_back({.name = renamed});
    return absl::OkStatus();
  };
  for (const std::string& name : index.index_only_keys()) KEYLOAD_RETURN_IF_ERROR(append(name));
  for (const AbsentKey& key : index.absent_keys()) KEYLOAD_RETURN_IF_ERROR(append(key.name));
  return absl::OkStatus();
}

// Further names of stored tensors, without those that another key has.
absl::Status AppendAliases(const CheckpointIndex& index, const RenameRules& renames, NameArena& arena, SearchWork& work,
                           PeriodicCheck& check, std::vector<NamedTensor>& entries) {
  if (!HasAliases(index)) return absl::OkStatus();
  absl::flat_hash_set<std::string_view> taken;
  for (const NamedTensor& entry : entries) taken.insert(entry.name);
  for (const ShardHeader& shard : index.headers().shards()) {
    if (shard.aliases == nullptr) continue;
    for (const StoredAlias& names : *shard.aliases) {
      KEYLOAD_RETURN_IF_ERROR(check.Check(renames.CostOf(names.alias)));
      KEYLOAD_ASSIGN_OR_RETURN(const std::string_view renamed, renames.Apply(names.alias, arena, work));
      if (taken.insert(renamed).second) entries.push_back({.name = renamed});
    }
  }
  return absl::OkStatus();
}

}  // namespace

ModelNames::ModelNames(const Manifest& manifest, std::string_view base_prefix)
    : tensors_(manifest.tensors), prefix_(base_prefix.empty() ? "" : absl::StrFormat("%s.", base_prefix)) {}

int64_t ModelNames::Find(std::string_view name) {
  if (next_ < tensors_.size() && tensors_[next_].name == name) return static_cast<int64_t>(next_++);
  const auto name_at = [this](uint32_t i) { return std::string_view(tensors_[i].name); };
  if (!by_name_) {
    by_name_.emplace(tensors_.size());
    for (uint32_t i = 0; i < tensors_.size(); ++i) by_name_->Insert(tensors_[i].name, i, name_at);
  }
  const int64_t found = by_name_->Find(name, name_at);
  if (found >= 0) next_ = static_cast<size_t>(found) + 1;
  return found;
}

int64_t ModelNames::FindWithPrefix(std::string_view name) {
  const int64_t exact = Find(name);
  if (exact >= 0 || prefix_.empty()) return exact;
  if (name.starts_with(prefix_)) {
    if (const int64_t stripped = Find(name.substr(prefix_.size())); stripped >= 0) return stripped;
  }
  scratch_.assign(prefix_).append(name);
  return Find(scratch_);
}

absl::Status KeyConflict(const CheckpointIndex& index, std::string_view model_key, int64_t first, int64_t second) {
  const StoredTensor& a = index.tensors()[first];
  const StoredTensor& b = index.tensors()[second];
  const std::string& file_a = index.shards()[a.shard].file;
  const std::string& file_b = index.shards()[b.shard].file;
  return MakeError(Reason::kKeyConflict,
                   absl::StrFormat("two stored keys become model key %s: %s of %s and %s of %s", model_key, a.name,
                                   file_a, b.name, file_b),
                   {{"key", std::string(model_key)}, {"first", std::string(a.name)}, {"second", std::string(b.name)}});
}

absl::StatusOr<std::vector<UnexpectedKey>> MapStoredKeys(const CheckpointIndex& index, const RenameRules& renames,
                                                         ModelNames& names, NameArena& arena, SearchWork& work,
                                                         KeyConverter& converter, PeriodicCheck& check,
                                                         std::vector<ModelKey>& keys) {
  std::vector<UnexpectedKey> unexpected;
  for (int64_t stored = 0; stored < static_cast<int64_t>(index.tensors().size()); ++stored) {
    const std::string_view original = index.tensors()[stored].name;
    KEYLOAD_RETURN_IF_ERROR(check.Check(renames.CostOf(original) + converter.CostOf(original)));
    KEYLOAD_ASSIGN_OR_RETURN(const std::string_view renamed, renames.Apply(original, arena, work));
    KEYLOAD_ASSIGN_OR_RETURN(const bool taken, converter.Take(static_cast<uint32_t>(stored), renamed));
    if (taken) continue;
    int64_t target = names.FindWithPrefix(renamed);
    // A checkpoint whose keys are the model's already needs no rename, and a rename may spoil them.
    if (target < 0 && renamed.data() != original.data()) target = names.FindWithPrefix(original);
    if (target < 0) {
      unexpected.push_back({.name = renamed, .stored = stored});
    } else if (ModelKey& key = keys[target]; key.kind == TensorKind::kNonPersistentBuffer) {
      unexpected.push_back({.name = key.name, .stored = stored, .ignored = true});
    } else if (key.stored >= 0) {
      return KeyConflict(index, key.name, key.stored, stored);
    } else {
      key.stored = stored;
    }
  }
  return unexpected;
}

namespace {

// The names after `renames`, in natural order.
absl::StatusOr<std::vector<NamedTensor>> RenamedTensors(const CheckpointIndex& index, const RenameRules& renames,
                                                        NameArena& arena, SearchWork& work, PeriodicCheck& check) {
  std::vector<NamedTensor> entries;
  entries.reserve(index.tensors().size() + index.index_only_keys().size() + index.absent_keys().size());
  absl::flat_hash_map<std::string_view, int64_t> stored_as;
  if (!renames.empty()) stored_as.reserve(index.tensors().size());
  for (int64_t stored = 0; stored < static_cast<int64_t>(index.tensors().size()); ++stored) {
    KEYLOAD_RETURN_IF_ERROR(check.Check(renames.CostOf(index.tensors()[stored].name)));
    KEYLOAD_ASSIGN_OR_RETURN(const std::string_view name, renames.Apply(index.tensors()[stored].name, arena, work));
    if (!renames.empty()) {  // names are unique until something renames them
      const auto [entry, inserted] = stored_as.emplace(name, stored);
      if (!inserted) return KeyConflict(index, name, entry->second, stored);
    }
    entries.push_back({.name = name, .stored = stored});
  }
  KEYLOAD_RETURN_IF_ERROR(AppendIndexOnly(index, renames, arena, work, check, entries));
  KEYLOAD_RETURN_IF_ERROR(AppendAliases(index, renames, arena, work, check, entries));

  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const NamedTensor& entry : entries) names.push_back(entry.name);
  std::vector<NamedTensor> ordered;
  ordered.reserve(entries.size());
  for (const uint32_t i : NaturalOrder(names)) ordered.push_back(entries[i]);
  return ordered;
}

}  // namespace

absl::StatusOr<std::vector<ModelKey>> KeysOfCheckpoint(const CheckpointIndex& index, const RenameRules& renames,
                                                       NameArena& arena, SearchWork& work, PeriodicCheck& check) {
  std::vector<ModelKey> keys;
  if (renames.empty() && index.index_only_keys().empty() && index.absent_keys().empty() && !HasAliases(index)) {
    keys.reserve(index.tensors().size());
    for (const uint32_t stored : index.headers().NaturalOrder()) {
      KEYLOAD_RETURN_IF_ERROR(check.Check());
      keys.push_back(StoredAsExpected(index, {.name = index.tensors()[stored].name, .stored = stored}));
    }
    return keys;
  }
  KEYLOAD_ASSIGN_OR_RETURN(const std::vector<NamedTensor> entries, RenamedTensors(index, renames, arena, work, check));
  keys.reserve(entries.size());
  for (const NamedTensor& entry : entries) keys.push_back(StoredAsExpected(index, entry));
  return keys;
}

}  // namespace keyload
