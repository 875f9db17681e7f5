#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/checkpoint/checkpoint_headers.h"
#include "server/checkpoint/header_memory.h"

namespace keyload {

// Finds in a header's __metadata__ which entries are further names of tensors: the name of an entry is no tensor's, its
// text is one's. Not thread-safe.
class MetadataAliases {
 public:
  // Borrows both texts until Find. Heap is counted in `charge`, which may be null. MEMORY_EXHAUSTED names `file`.
  absl::Status Add(std::string_view name, std::string_view text, HeaderCharge* charge, std::string_view file);
  // Null where there are none; by the order of the entries, a name that comes twice counts once.
  std::shared_ptr<const StoredAliases> Find(std::span<const StoredTensor> tensors) const;

 private:
  std::vector<std::pair<std::string_view, std::string_view>> entries_;
};

}  // namespace keyload
