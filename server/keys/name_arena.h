#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/error.h"
#include "server/base/request_context.h"

namespace keyload {

// Keeps many names in few allocations. A view that Add returned lives as long as the blocks do. Not thread-safe.
class NameArena {
 public:
  // The blocks are counted as the heap of `context`; null: nowhere.
  explicit NameArena(const RequestContext* context) : context_(context) {}

  // MEMORY_EXHAUSTED.
  absl::StatusOr<std::string_view> Add(std::string_view name) {
    if (blocks_.empty() || blocks_.back()->capacity() - blocks_.back()->size() < name.size()) {
      const size_t size = std::max(kBlockBytes, name.size());
      if (context_ != nullptr) KEYLOAD_RETURN_IF_ERROR(context_->TakeHeap(size, "renaming the keys"));
      blocks_.push_back(std::make_shared<std::string>());
      blocks_.back()->reserve(size);
    }
    std::string& block = *blocks_.back();
    block.append(name);  // within the capacity: what was added before does not move
    return std::string_view(block).substr(block.size() - name.size());
  }

  std::vector<std::shared_ptr<const std::string>> Release() { return {blocks_.begin(), blocks_.end()}; }

 private:
  static constexpr size_t kBlockBytes = 64 * 1024;

  const RequestContext* const context_;
  std::vector<std::shared_ptr<std::string>> blocks_;
};

}  // namespace keyload
