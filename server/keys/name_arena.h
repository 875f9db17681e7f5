#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace keyload {

// Keeps many names in few allocations. A view that Add returned lives as long as the blocks do. Not thread-safe.
class NameArena {
 public:
  std::string_view Add(std::string_view name) {
    if (blocks_.empty() || blocks_.back()->capacity() - blocks_.back()->size() < name.size()) {
      blocks_.push_back(std::make_shared<std::string>());
      blocks_.back()->reserve(std::max(kBlockBytes, name.size()));
    }
    std::string& block = *blocks_.back();
    block.append(name);  // within the capacity: what was added before does not move
    bytes_ += name.size();
    return std::string_view(block).substr(block.size() - name.size());
  }

  size_t bytes() const { return bytes_; }
  std::vector<std::shared_ptr<const std::string>> Release() { return {blocks_.begin(), blocks_.end()}; }

 private:
  static constexpr size_t kBlockBytes = 64 * 1024;

  std::vector<std::shared_ptr<std::string>> blocks_;
  size_t bytes_ = 0;
};

}  // namespace keyload
