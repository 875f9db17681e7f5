#include "server/placement/tied_partners.h"

#include <algorithm>

namespace keyload {

TiedPartners::TiedPartners(const PlacementModel& model, const ModuleTree& tree)
    : tree_(tree), groups_(model.tied_groups.size()), visited_(model.tied_groups.size(), 0) {
  for (uint32_t group = 0; group < groups_.size(); ++group) {
    for (const uint32_t tensor : model.tied_groups[group]) {
      groups_[group].push_back(tree.ItemOf(tensor));
      members_.emplace_back(tree.ItemOf(tensor), group);
    }
  }
  std::sort(members_.begin(), members_.end());
}

std::vector<TiedPartner> TiedPartners::Of(uint32_t item, const PlacementQueue& queue) {
  std::vector<TiedPartner> partners;
  last_cost_ = 0;
  ++calls_;
  const uint32_t end = tree_[item].end;
  auto member = std::lower_bound(members_.begin(), members_.end(), std::pair(item, 0u));
  for (; member != members_.end() && member->first < end; ++member) {
    ++last_cost_;
    if (std::exchange(visited_[member->second], calls_) == calls_) continue;
    last_cost_ += groups_[member->second].size();
    for (const uint32_t tensor_item : groups_[member->second]) {
      if (tensor_item >= item && tensor_item < end) continue;
      if (const uint32_t holder = queue.Holder(tensor_item); holder != kNoItem)
        partners.push_back({tensor_item, holder});
    }
  }
  std::sort(partners.begin(), partners.end(),
            [](const TiedPartner& a, const TiedPartner& b) { return a.tensor_item < b.tensor_item; });
  return partners;
}

}  // namespace keyload
