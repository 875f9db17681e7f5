#include "server/load/blocks.h"

#include <algorithm>

namespace keyload {
namespace {

uint64_t End(const PlannedTensor& tensor) { return tensor.file_offset + tensor.stored_bytes; }

uint64_t ElementBytes(const PlannedTensor& tensor) { return std::max<uint64_t>(DTypeBits(tensor.stored_dtype) / 8, 1); }

}  // namespace

std::vector<Block> CutBlocks(const LoadPlan& plan, const BlockLimits& limits) {
  std::vector<Block> blocks;
  for (uint32_t e = 0; e < plan.extents.size(); ++e) {
    const Extent& extent = plan.extents[e];
    const uint64_t limit = extent.engine == Engine::kMapped ? limits.mapped_bytes : limits.buffered_bytes;
    const uint32_t last = extent.first_tensor + extent.tensor_count;
    uint64_t position = extent.offset;
    uint32_t tensor = extent.first_tensor;
    while (tensor < last) {
      Block block = {.extent = e, .offset = position, .first_tensor = tensor};
      uint64_t stop = std::min(position + limit, extent.offset + extent.length);
      while (tensor < last && tensor - block.first_tensor < limits.tensors && End(plan.tensors[tensor]) <= stop)
        ++tensor;
      block.end_tensor = tensor;
      if (tensor < last) {
        const PlannedTensor& cut = plan.tensors[tensor];
        if (tensor - block.first_tensor == limits.tensors || cut.file_offset >= stop) {
          stop = tensor > block.first_tensor ? End(plan.tensors[tensor - 1]) : stop;
        } else {
          stop -= (stop - cut.file_offset) % ElementBytes(cut);
          if (stop > cut.file_offset) block.end_tensor = tensor + 1;
        }
      }
      block.length = stop - position;
      blocks.push_back(block);
      position = tensor < last ? std::max(stop, plan.tensors[tensor].file_offset) : stop;
    }
  }
  return blocks;
}

}  // namespace keyload
