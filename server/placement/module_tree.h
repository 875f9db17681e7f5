#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/placement/placement.h"

namespace keyload {

inline constexpr uint32_t kNoItem = UINT32_MAX;
inline constexpr size_t kMaxNameDepth = 64;

// A module or a tensor of the model.
struct TreeItem {
  std::string_view name;  // "" is the root
  uint32_t parent = kNoItem;
  uint32_t end = 0;              // one past the last item below; the items below are (own index, end)
  uint32_t tensor = kNoItem;     // index into PlacementModel::tensors; kNoItem for a module
  bool buffer = false;           // a tensor that is a buffer
  bool no_split = false;         // a module that must stay whole
  bool has_modules = false;      // a module with child modules
  uint32_t counted_tensors = 0;  // tensors at or below that are not a later member of a tied group
  uint64_t bytes = 0;            // of those tensors
  uint64_t buffer_bytes = 0;     // of those that are buffers

  bool is_module() const { return tensor == kNoItem; }
};

// The model as a tree in preorder: item 0 is the root; a module is followed by its direct parameters, its direct
// buffers and its child modules, each in registration order. A prefix test is a comparison of indices: `b` is at or
// below `a` if a <= b < items()[a].end. Immutable; borrows the names of the model that it was built from.
class ModuleTree {
 public:
  // Modules that `model.modules` lacks are inserted. A tensor whose name is also a module's (a packed weight beside its
  // "weight.absmax") becomes a direct tensor of that module.
  // DEVICE_MAP_INVALID: a name of more than kMaxNameDepth components, sizes that add up to more than 2^63 - 1 bytes.
  // INTERNAL: a tied group that names a tensor that is not there.
  // Its heap is counted in `context`, which is asked now and then; null: neither. MEMORY_EXHAUSTED, and its errors.
  static absl::StatusOr<ModuleTree> Create(const PlacementModel& model, const RequestContext* context = nullptr);

  const std::vector<TreeItem>& items() const { return items_; }
  const TreeItem& operator[](uint32_t item) const { return items_[item]; }
  uint32_t ItemOf(uint32_t tensor) const { return item_of_[tensor]; }

  // The first item below `module`, and the one after `child` among its siblings (kNoItem after the last).
  uint32_t FirstChild(uint32_t module) const { return module + 1 < items_[module].end ? module + 1 : kNoItem; }
  uint32_t NextSibling(uint32_t child) const {
    return items_[child].end < items_[items_[child].parent].end ? items_[child].end : kNoItem;
  }
  // A module that may be replaced by its parts: it has child modules and no class that must stay whole.
  bool CanSplit(uint32_t item) const { return items_[item].has_modules && !items_[item].no_split; }

 private:
  std::vector<TreeItem> items_;
  std::vector<uint32_t> item_of_;  // per tensor
};

}  // namespace keyload
