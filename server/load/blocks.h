#pragma once

#include <cstdint>
#include <vector>

#include "server/plan/load_plan.h"

namespace keyload {

// The unit of reading, of progress and of cancellation: a piece of one extent and the tensors that it touches.
// No element of a tensor is cut in two, so that each block can be converted on its own.
struct Block {
  uint32_t extent = 0;
  uint64_t offset = 0;  // in the file
  uint64_t length = 0;
  uint32_t first_tensor = 0;  // first tensor with a byte in the block (or an empty one at its start)
  uint32_t end_tensor = 0;    // one past the last
};

struct BlockLimits {
  uint64_t buffered_bytes = 4ull << 20;  // stays in the cache of a core while it is copied on
  uint64_t mapped_bytes = 64ull << 20;
  uint32_t tensors = 400;  // two iovecs each must stay below IOV_MAX
};

std::vector<Block> CutBlocks(const LoadPlan& plan, const BlockLimits& limits);

}  // namespace keyload
