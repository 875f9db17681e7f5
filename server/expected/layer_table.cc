#include "server/expected/layer_table.h"

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr std::string_view kWeightEnd = ".weight";
constexpr size_t kMaxSuffixes = 1'024;
constexpr size_t kMaxOfLayer = 64;

}  // namespace

LayerTable::LayerTable(const Manifest& plain) : plain_(plain) {
  if (!plain.base_model_prefix.empty()) prefix_ = StrCat(plain.base_model_prefix, ".");
  weight_ = *SuffixNumber("weight");
  bias_ = *SuffixNumber("bias");
}

absl::Status LayerTable::FindLayers(PeriodicCheck& check) {
  absl::flat_hash_map<std::string_view, uint32_t> groups;
  for (const TensorSpec& tensor : plain_.tensors) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    std::string_view name = tensor.name;
    if (tensor.shape.size() != 2 || !name.ends_with(kWeightEnd)) continue;
    name.remove_suffix(kWeightEnd.size());
    const auto group = groups.try_emplace(name.substr(name.rfind('.') + 1), static_cast<uint32_t>(groups.size())).first;
    by_name_.emplace(name, static_cast<uint32_t>(layers_.size()));
    layers_.push_back({.name = name, .group = group->second, .plain = {}, .templated = {}, .stored = {}});
  }
  group_count_ = groups.size();
  return AddMembers(plain_, &Layer::plain, check);
}

absl::Status LayerTable::AddTemplated(const Manifest& manifest, PeriodicCheck& check) {
  return AddMembers(manifest, &Layer::templated, check);
}

absl::Status LayerTable::AddMembers(const Manifest& manifest, Members Layer::*members, PeriodicCheck& check) {
  for (uint32_t i = 0; i < manifest.tensors.size(); ++i) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    const Place place = PlaceOf(manifest.tensors[i].name);
    if (place.layer == kNone) continue;
    if (const auto number = SuffixNumber(place.suffix)) (layers_[place.layer].*members).push_back({*number, i});
  }
  return absl::OkStatus();
}

bool LayerTable::AddStored(std::string_view name, uint32_t at) {
  const Place place = PlaceOf(name);
  if (place.layer == kNone) return false;
  Members& stored = layers_[place.layer].stored;
  const auto number = SuffixNumber(place.suffix);
  if (number && stored.size() < kMaxOfLayer) stored.push_back({*number, at});
  return true;
}

LayerTable::Place LayerTable::PlaceOf(std::string_view tensor) {
  for (size_t dot = tensor.rfind('.'); dot != std::string_view::npos && dot > 0; dot = tensor.rfind('.', dot - 1)) {
    const std::string_view module = tensor.substr(0, dot);
    auto found = by_name_.find(module);
    if (found == by_name_.end() && !prefix_.empty()) {
      if (module.starts_with(prefix_)) {
        found = by_name_.find(module.substr(prefix_.size()));
      } else {
        scratch_.assign(prefix_).append(module);
        found = by_name_.find(scratch_);
      }
    }
    if (found != by_name_.end()) return {.layer = found->second, .suffix = tensor.substr(dot + 1)};
  }
  return {};
}

uint32_t LayerTable::Find(const Members& members, uint32_t suffix) {
  for (const Member& member : members) {
    if (member.suffix == suffix) return member.at;
  }
  return kNone;
}

std::optional<uint32_t> LayerTable::SuffixNumber(std::string_view suffix) {
  const auto known = suffix_numbers_.find(suffix);
  if (known != suffix_numbers_.end()) return known->second;
  if (suffixes_.size() == kMaxSuffixes) return std::nullopt;
  const auto number = static_cast<uint32_t>(suffixes_.size());
  suffixes_.push_back(suffix);
  suffix_numbers_.emplace(suffix, number);
  return number;
}

}  // namespace keyload
