#include "server/service/same_model.h"

#include <algorithm>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

absl::Status ModelExists(const ResidentModel& model, std::string_view why) {
  return MakeError(Reason::kModelExists, StrCat("model ", model.content().name, " is loaded already", why),
                   {{"model", model.content().name}});
}

absl::Status FileChanged(const ResidentModel& model, const Shard& shard) {
  return MakeError(Reason::kCheckpointChanged,
                   StrCat("model ", model.content().name, " is loaded already, from a ", shard.file,
                          " that changed since: unload it first"),
                   {{"model", model.content().name}, {"file", shard.file}});
}

// A key that has its bytes from another keeps them: with a new provider it would have other ones.
absl::Status CheckSameProviders(const ResidentModel& model, const KeyReport& keys) {
  for (size_t i = 0; i < keys.keys.size(); ++i) {
    const ModelKey& then = model.content().keys->keys[i];
    const ModelKey& now = keys.keys[i];
    if (then.state != KeyState::kTied || now.tied_to == then.tied_to) continue;
    return ModelExists(
        model, StrCat(": ", now.name, " has the bytes of ", keys.keys[then.tied_to].name, " there, and would have ",
                      now.tied_to < 0 ? "none" : StrCat("those of ", keys.keys[now.tied_to].name),
                      " now that the manifest ties other keys: unload it first"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSameRequest(const ResidentModel& model, const LoadSpec& spec) {
  if (spec.if_exists == IfExists::kFail) return ModelExists(model, "");
  if (model.content().fingerprint == spec.fingerprint) return absl::OkStatus();
  return ModelExists(model, ", from another source or with other rules or another map");
}

absl::Status CheckSameFiles(const ResidentModel& model) {
  for (const Shard& shard : model.content().keys->index->shards()) {
    if (!CheckUnchanged(shard, "").ok()) return FileChanged(model, shard);
  }
  return absl::OkStatus();
}

absl::Status CheckSameKeys(const ResidentModel& model, const KeyReport& keys) {
  const KeyReport& before = *model.content().keys;
  const std::vector<Shard>& shards = keys.index->shards();
  for (size_t i = 0; i < before.index->shards().size(); ++i) {
    const Shard& shard = before.index->shards()[i];
    if (shard.fd == nullptr) continue;  // it was absent: the model has nothing of it
    if (i < shards.size() && shards[i].file == shard.file && shards[i].identity == shard.identity) continue;
    return FileChanged(model, shard);
  }
  const auto same = [](const ModelKey& now, const ModelKey& then) {
    return now.name == then.name && now.shape == then.shape;
  };
  if (shards.size() != before.index->shards().size() ||
      !std::equal(keys.keys.begin(), keys.keys.end(), before.keys.begin(), before.keys.end(), same))
    return ModelExists(model, ", with other expected keys");
  return CheckSameProviders(model, keys);
}

}  // namespace keyload
