#include "server/placement/infer_auto_device_map.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "server/base/error.h"
#include "server/placement/layer_reserve.h"
#include "server/placement/placement_queue.h"
#include "server/placement/tied_partners.h"

namespace keyload {
namespace {

// As accelerate does, a module counts once for each tied tensor that it brings, so sums may exceed 64 bits.
using Sum = unsigned __int128;

uint64_t Clamp(Sum bytes) { return static_cast<uint64_t>(std::min<Sum>(bytes, UINT64_MAX)); }

class Inference {
 public:
  Inference(const PlacementModel& model, const ModuleTree& tree, const std::vector<DeviceLimit>& limits,
            const InferOptions& options)
      : tree_(tree),
        limits_(limits),
        options_(options),
        queue_(tree),
        reserve_(tree),
        tied_(model, tree),
        used_(limits.size() + 1, 0),
        buffers_(limits.size() + 1, 0),
        search_budget_(kSearchStepsPerItem * tree.items().size()) {
    result_.device_of.assign(tree.items().size(), -1);
  }

  absl::StatusOr<InferredMap> Run() && {
    PeriodicCheck check(options_.context);
    while (!queue_.empty()) {
      KEYLOAD_RETURN_IF_ERROR(check.Check());
      const uint32_t item = queue_.front();
      queue_.Remove(item);
      reserve_.OnTaken(item);
      FindPartners(item);
      if (Fits(size_with_partners_)) {
        Place(item);
      } else if (!SplitPartner(item) && !SplitItem(item) && !PlaceAnother(item)) {
        LeaveDevice(item);
      }
    }
    MapCarriedBuffers();
    FindStrandedBuffers();
    return std::move(result_);
  }

 private:
  static constexpr uint64_t kSearchStepsPerItem = 32;

  bool on_disk() const { return device_ == limits_.size(); }

  // Kept free on the first GPU, and on cpu. 0 on other devices.
  uint64_t Reserved() const {
    if (on_disk()) return 0;
    const bool main = !limits_[device_].gpu || device_ == 0;
    return main ? reserve_.bytes() : 0;
  }

  bool Fits(Sum bytes) const { return on_disk() || used_[device_] + bytes + Reserved() <= limits_[device_].bytes; }

  void FindPartners(uint32_t item) {
    if (std::exchange(partners_of_, item) == item) return;
    partners_ = tied_.Of(item, queue_);
    first_splittable_ = 0;
    size_with_partners_ = queue_.SizeOf(item);
    for (const TiedPartner& partner : partners_) size_with_partners_ += queue_.SizeOf(partner.holder);
  }

  void Place(uint32_t item) {
    used_[device_] += size_with_partners_;
    if (!options_.offload_buffers &&
        (tree_[item].is_module() || queue_.BufferBytesOf(item) > tree_[item].buffer_bytes)) {
      buffers_[device_] += queue_.BufferBytesOf(item);
    }
    Settle(item);
    for (const TiedPartner& partner : partners_) {
      if (partner.holder == kNoItem || result_.device_of[partner.holder] >= 0) continue;
      queue_.Remove(partner.holder);
      Settle(partner.holder);
    }
    partners_of_ = kNoItem;
  }

  void Settle(uint32_t item) {
    result_.device_of[item] = static_cast<int32_t>(device_);
    reserve_.OnPlaced(item);
  }

  // The item alone would fit: its first partner that can be split is replaced by its parts.
  bool SplitPartner(uint32_t item) {
    if (!Fits(queue_.SizeOf(item))) return false;
    // A partner's holder only ever moves down the tree, so what could not be split before cannot be now.
    while (first_splittable_ < partners_.size() && !CanSplit(partners_[first_splittable_])) ++first_splittable_;
    if (first_splittable_ == partners_.size()) return false;
    const uint32_t holder = partners_[first_splittable_].holder;
    const uint64_t whole = queue_.SizeOf(holder);
    queue_.Split(holder);
    reserve_.Recompute();
    const auto before = [](const TiedPartner& partner, uint32_t bound) { return partner.tensor_item < bound; };
    auto partner = std::lower_bound(partners_.begin(), partners_.end(), holder, before);
    for (; partner != partners_.end() && partner->tensor_item < tree_[holder].end; ++partner) {
      if (partner->holder == kNoItem) continue;
      size_with_partners_ -= whole;
      partner->holder = queue_.Holder(partner->tensor_item);
      if (partner->holder != kNoItem) size_with_partners_ += queue_.SizeOf(partner->holder);
    }
    queue_.PushFront(item);
    return true;
  }

  bool CanSplit(const TiedPartner& partner) const {
    return partner.holder != kNoItem && tree_.CanSplit(partner.holder);
  }

  bool SplitItem(uint32_t item) {
    // accelerate's ">=": an item that fits exactly, but not with its partners, is split too.
    const Sum filled = used_[device_] + queue_.SizeOf(item) + Reserved();
    if (filled < limits_[device_].bytes || !tree_.CanSplit(item)) return false;
    queue_.PushFront(item);
    queue_.Split(item);
    reserve_.Recompute();
    return true;
  }

  // The device is empty and `item` does not fit: with fallback allocation the first waiting part that does goes first.
  bool PlaceAnother(uint32_t item) {
    if (!options_.fallback_allocation || used_[device_] != 0 || item == fallback_) return false;
    const Sum kept_free = std::max<Sum>(reserve_.bytes(), size_with_partners_);
    if (kept_free > limits_[device_].bytes) return false;
    const std::optional<uint32_t> found = FindWithin(Clamp(limits_[device_].bytes - kept_free), item);
    if (!found) return false;
    std::vector<uint32_t> above;
    for (uint32_t i = *found, holder = queue_.Holder(*found); i != holder;) above.push_back(i = tree_[i].parent);
    for (auto module = above.rbegin(); module != above.rend(); ++module) {
      queue_.Split(*module);
      reserve_.OnExpanded(*module);
    }
    queue_.Remove(*found);
    queue_.PushFront(item);
    queue_.PushFront(*found);
    fallback_ = *found;
    return true;
  }

  // Depth first over what waits. The budget keeps a model of many parts and empty devices from costing a search each.
  std::optional<uint32_t> FindWithin(uint64_t bytes, uint32_t in_hand) {
    std::vector<uint32_t> expanded;
    std::optional<uint32_t> found;
    queue_.Mark(in_hand, true);
    for (uint32_t top = queue_.front(); top != queue_.end() && !found && search_budget_ > 0; top = queue_.Next(top)) {
      std::vector<uint32_t> stack = {top};
      while (!stack.empty() && search_budget_ > 0) {
        const uint32_t item = stack.back();
        stack.pop_back();
        Sum size = queue_.SizeOf(item);
        for (const TiedPartner& partner : tied_.Of(item, queue_)) size += queue_.SizeOf(partner.holder);
        search_budget_ -= std::min(search_budget_, 1 + tied_.last_cost());
        if (size <= bytes) {
          found = item;
          break;
        }
        if (!tree_.CanSplit(item)) continue;
        expanded.push_back(item);
        MarkParts(item, true);
        const size_t first = stack.size();
        ForEachPart(tree_, item, [&](uint32_t part) { stack.push_back(part); });
        std::reverse(stack.begin() + static_cast<ptrdiff_t>(first), stack.end());
      }
    }
    for (auto module = expanded.rbegin(); module != expanded.rend(); ++module) MarkParts(*module, false);
    queue_.Mark(in_hand, false);
    return found;
  }

  void MarkParts(uint32_t module, bool waiting) {
    queue_.Mark(module, !waiting);
    ForEachPart(tree_, module, [&](uint32_t part) { queue_.Mark(part, waiting); });
  }

  void LeaveDevice(uint32_t item) {
    if (used_[device_] == 0) {
      result_.empty_devices.push_back({.device = device_, .needed_bytes = Clamp(size_with_partners_ + Reserved())});
    }
    used_[device_] += Reserved();
    ++device_;
    queue_.PushFront(item);
  }

  // A module lies before its parts in the tree, so going backwards settles a carrier that is split too before its
  // module.
  void MapCarriedBuffers() {
    std::vector<uint32_t> modules = queue_.split_modules();
    std::sort(modules.rbegin(), modules.rend());
    std::vector<int32_t> carrier_device(tree_.items().size(), -1);
    for (const uint32_t module : modules) {
      const uint32_t carrier = queue_.CarrierOf(module);
      const int32_t device = result_.device_of[carrier] >= 0 ? result_.device_of[carrier] : carrier_device[carrier];
      carrier_device[module] = device;
      for (uint32_t child = tree_.FirstChild(module); child != kNoItem; child = tree_.NextSibling(child)) {
        if (tree_[child].buffer) result_.device_of[child] = device;
      }
    }
  }

  void FindStrandedBuffers() {
    Sum offloaded = buffers_.back();
    bool any_gpu = false;
    for (size_t i = 0; i < limits_.size(); ++i) {
      if (limits_[i].gpu) any_gpu = true;
      if (!limits_[i].gpu) offloaded += buffers_[i];
    }
    if (!any_gpu) return;
    for (size_t i = 0; i < limits_.size(); ++i) {
      if (limits_[i].gpu && used_[i] + offloaded <= limits_[i].bytes) return;
    }
    result_.stranded_buffer_bytes = Clamp(offloaded);
  }

  const ModuleTree& tree_;
  const std::vector<DeviceLimit>& limits_;
  const InferOptions options_;
  PlacementQueue queue_;
  LayerReserve reserve_;
  TiedPartners tied_;
  std::vector<Sum> used_;     // per device, disk last
  std::vector<Sum> buffers_;  // of the modules placed there
  uint64_t search_budget_;
  uint32_t device_ = 0;
  uint32_t fallback_ = kNoItem;  // what PlaceAnother chose last
  uint32_t partners_of_ = kNoItem;
  std::vector<TiedPartner> partners_;
  size_t first_splittable_ = 0;
  Sum size_with_partners_ = 0;
  InferredMap result_;
};

}  // namespace

absl::StatusOr<InferredMap> InferAutoDeviceMap(const PlacementModel& model, const ModuleTree& tree,
                                               const std::vector<DeviceLimit>& limits, const InferOptions& options) {
  return Inference(model, tree, limits, options).Run();
}

}  // namespace keyload
