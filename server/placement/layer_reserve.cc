#include "server/placement/layer_reserve.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"

namespace keyload {
namespace {

constexpr uint32_t kFirstRound = 1;

}  // namespace

LayerReserve::LayerReserve(const ModuleTree& tree)
    : tree_(tree), group_of_(tree.items().size(), kNoItem), dropped_round_(tree.items().size(), 0) {
  std::vector<uint32_t> layers;
  for (uint32_t i = 1; i < tree.items().size();) {
    const bool layer = tree[i].is_module() && !tree.CanSplit(i);
    if (layer) layers.push_back(i);
    i = layer ? tree[i].end : i + 1;
  }
  // A model of a million layers has few sizes of them: the sizes are sorted, not the layers.
  std::vector<uint64_t> sizes;
  absl::flat_hash_map<uint64_t, uint32_t> group_with;
  for (const uint32_t layer : layers) {
    if (group_with.try_emplace(tree[layer].bytes, 0).second) sizes.push_back(tree[layer].bytes);
  }
  std::sort(sizes.rbegin(), sizes.rend());
  for (const uint64_t bytes : sizes) {
    group_with[bytes] = static_cast<uint32_t>(groups_.size());
    groups_.push_back({.bytes = bytes});
  }
  for (const uint32_t layer : layers) {
    group_of_[layer] = group_with.find(tree[layer].bytes)->second;
    SizeGroup& group = groups_[group_of_[layer]];
    group.layers.push_back(layer);
    ++group.waiting;
  }
  next_group_.resize(groups_.size() + 1);
  for (uint32_t i = 0; i < next_group_.size(); ++i) next_group_[i] = i;

  Recompute();
  for (uint32_t child = tree.FirstChild(0); child != kNoItem; child = tree.NextSibling(child)) {
    if (tree[child].is_module() || tree[child].bytes < bytes_) continue;
    if (tree[child].bytes > bytes_) {
      bytes_ = tree[child].bytes;
      listed_ = 0;
      listed_group_ = kNoItem;
    }
    ++listed_;
  }
}

void LayerReserve::OnTaken(uint32_t item) {
  if (dropped_round_[item] != round_) {
    dropped_round_[item] = round_;
    if (listed_group_ != kNoItem) listed_ -= CountUnder(groups_[listed_group_], item);
    const bool root_tensor = !tree_[item].is_module() && tree_[item].parent == 0;
    if (round_ == kFirstRound && root_tensor && tree_[item].bytes == bytes_) --listed_;
  }
  if (listed_ == 0) {
    Recompute(item);
    dropped_round_[item] = round_;
  }
}

void LayerReserve::OnPlaced(uint32_t item) {
  for (uint32_t i = item; i < tree_[item].end; ++i) {
    if (group_of_[i] != kNoItem) --groups_[group_of_[i]].waiting;
  }
}

void LayerReserve::OnExpanded(uint32_t item) {
  for (uint32_t child = tree_.FirstChild(item); child != kNoItem; child = tree_.NextSibling(child)) {
    dropped_round_[child] = dropped_round_[item];
  }
}

void LayerReserve::Recompute(uint32_t without) {
  ++round_;
  bytes_ = 0;
  listed_ = 0;
  listed_group_ = kNoItem;
  uint32_t before = 0;
  for (uint32_t i = next_group_[0]; i < groups_.size(); i = next_group_[before]) {
    if (groups_[i].waiting == 0) {
      next_group_[before] = next_group_[i + 1];
      continue;
    }
    const uint32_t count = groups_[i].waiting - (without == kNoItem ? 0 : CountUnder(groups_[i], without));
    if (count > 0) {
      bytes_ = groups_[i].bytes;
      listed_ = count;
      listed_group_ = i;
      return;
    }
    before = i + 1;
  }
}

uint32_t LayerReserve::CountUnder(const SizeGroup& group, uint32_t item) const {
  const auto begin = std::lower_bound(group.layers.begin(), group.layers.end(), item);
  return static_cast<uint32_t>(std::lower_bound(begin, group.layers.end(), tree_[item].end) - begin);
}

}  // namespace keyload
