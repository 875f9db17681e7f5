#include "server/keys/stored_aliases.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "server/base/error.h"

namespace keyload {

bool HasAliases(const CheckpointIndex& index) {
  const std::vector<ShardHeader>& shards = index.headers().shards();
  return std::any_of(shards.begin(), shards.end(), [](const ShardHeader& shard) { return shard.aliases != nullptr; });
}

absl::StatusOr<std::vector<AliasedKey>> FindAliasedKeys(const CheckpointIndex& index, const RenameRules& renames,
                                                        absl::FunctionRef<int64_t(std::string_view)> find, bool shaped,
                                                        NameArena& arena, SearchWork& work, PeriodicCheck& check,
                                                        std::vector<ModelKey>& keys) {
  std::vector<AliasedKey> aliased;
  const auto position = [&](std::string_view original) -> absl::StatusOr<int64_t> {
    KEYLOAD_RETURN_IF_ERROR(check.Check(renames.CostOf(original)));
    KEYLOAD_ASSIGN_OR_RETURN(const std::string_view renamed, renames.Apply(original, arena, work));
    const int64_t found = find(renamed);
    return found >= 0 || renamed == original ? found : find(original);
  };
  for (const ShardHeader& shard : index.headers().shards()) {
    if (shard.aliases == nullptr) continue;
    for (const StoredAlias& names : *shard.aliases) {
      KEYLOAD_ASSIGN_OR_RETURN(const int64_t alias, position(names.alias));
      KEYLOAD_ASSIGN_OR_RETURN(const int64_t stored, position(names.stored));
      if (alias < 0 || stored < 0 || alias == stored) continue;
      ModelKey& key = keys[alias];
      const ModelKey& supplier = keys[stored];
      const bool lacks = key.stored < 0 && key.made < 0 && key.kind != TensorKind::kNonPersistentBuffer;
      if (!lacks || supplier.stored < 0) continue;
      if (shaped && (key.dtype != supplier.dtype || key.shape != supplier.shape)) continue;
      key.dtype = supplier.dtype;
      key.shape = supplier.shape;
      key.bytes = supplier.bytes;
      aliased.push_back({.alias = static_cast<uint32_t>(alias), .stored = static_cast<uint32_t>(stored)});
    }
  }
  return aliased;
}

void AddToGroups(const std::vector<AliasedKey>& aliased, std::vector<std::vector<uint32_t>>& groups) {
  if (aliased.empty()) return;
  absl::flat_hash_map<uint32_t, size_t> group_of;
  for (size_t i = 0; i < groups.size(); ++i) {
    for (const uint32_t member : groups[i]) group_of.emplace(member, i);
  }
  const auto group_with = [&](uint32_t key) {
    const auto [known, added] = group_of.try_emplace(key, groups.size());
    if (added) groups.push_back({key});
    return known->second;
  };
  for (const AliasedKey& pair : aliased) {
    size_t into = group_with(pair.stored), from = group_with(pair.alias);
    if (into == from) continue;
    if (groups[into].size() < groups[from].size()) std::swap(into, from);  // so that each member moves a few times only
    for (const uint32_t member : groups[from]) group_of[member] = into;
    groups[into].insert(groups[into].end(), groups[from].begin(), groups[from].end());
    groups[from].clear();
  }
  std::erase_if(groups, [](const std::vector<uint32_t>& group) { return group.empty(); });
}

}  // namespace keyload
