#include "server/keys/absent_shards.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"

namespace keyload {
namespace {

bool IsMissing(const ModelKey& key) { return key.state == KeyState::kMissing; }

// `is_needed` is asked for each absent key and its name after the renames.
absl::Status Check(const KeyReport& report, const RenameRules& renames, NameArena& arena, SearchWork& work,
                   PeriodicCheck& check,
                   absl::FunctionRef<bool(std::string_view name, std::string_view renamed)> is_needed) {
  const CheckpointIndex& index = *report.index;
  std::vector<bool> needed(index.shards().size());
  uint64_t keys = 0;
  std::string example;
  for (const AbsentKey& key : index.absent_keys()) {
    KEYLOAD_RETURN_IF_ERROR(check.Check(renames.CostOf(key.name)));
    KEYLOAD_ASSIGN_OR_RETURN(const std::string_view renamed, renames.Apply(key.name, arena, work));
    if (!is_needed(key.name, renamed)) continue;
    if (keys++ == 0) example = Shortened(key.name);
    needed[key.shard] = true;
  }
  if (keys == 0) return absl::OkStatus();
  std::vector<uint32_t> shards;
  for (uint32_t i = 0; i < needed.size(); ++i) {
    if (needed[i]) shards.push_back(i);
  }
  return index.ShardsAbsent(shards, StrCat("; they have ", keys, " of the selected keys, such as ", example));
}

}  // namespace

absl::Status CheckAbsentShards(const RenameRules& renames, ModelNames& names, const KeyConverter& converter,
                               NameArena& arena, SearchWork& work, PeriodicCheck& check, const KeyReport& report) {
  const std::vector<ModelKey>& keys = report.keys;
  if (report.index->absent_keys().empty() || std::none_of(keys.begin(), keys.end(), IsMissing)) return absl::OkStatus();
  return Check(report, renames, arena, work, check, [&](std::string_view name, std::string_view renamed) {
    if (converter.Wants(renamed)) return true;
    int64_t key = names.FindWithPrefix(renamed);
    if (key < 0) key = names.FindWithPrefix(name);
    return key >= 0 && IsMissing(keys[key]);
  });
}

absl::Status CheckAbsentShards(const RenameRules& renames, NameArena& arena, SearchWork& work, PeriodicCheck& check,
                               const KeyReport& report) {
  if (report.index->absent_keys().empty()) return absl::OkStatus();
  absl::flat_hash_set<std::string_view> missing;
  for (const ModelKey& key : report.keys) {
    if (IsMissing(key)) missing.insert(key.name);
  }
  if (missing.empty()) return absl::OkStatus();
  return Check(report, renames, arena, work, check,
               [&](std::string_view, std::string_view renamed) { return missing.contains(renamed); });
}

}  // namespace keyload
