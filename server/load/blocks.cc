#include "server/load/blocks.h"

#include <algorithm>

#include "server/io/shard_reader.h"

namespace keyload {
namespace {

uint64_t End(const TensorRun& run) { return run.file_offset + run.stored_bytes; }

uint64_t ElementBytes(const TensorRun& run) {
  return run.converts() ? std::max<uint64_t>(DTypeBits(run.stored_dtype) / 8, 1) : 1;
}

// Where a block that begins at `position` ends at the latest.
uint64_t Stop(uint64_t position, uint64_t limit) {
  return limit < 2 * kSectorBytes ? position + limit : position / kSectorBytes * kSectorBytes + limit;
}

// The tensors of `run` that end at or before `offset`.
uint64_t TensorsBefore(const LoadPlan& plan, const TensorRun& run, uint64_t offset) {
  const auto begin = plan.tensors.begin() + run.first_tensor;
  const auto ends_before = [&](const PlannedTensor& tensor) {
    return tensor.file_offset + tensor.stored_bytes <= offset;
  };
  return std::partition_point(begin, begin + run.tensor_count, ends_before) - begin;
}

void Count(const LoadPlan& plan, Block& block) {
  for (uint32_t i = block.first_run; i < block.end_run; ++i) {
    const TensorRun& run = plan.runs[i];
    const uint64_t begin = std::max(run.file_offset, block.offset);
    const uint64_t end = std::min(End(run), block.offset + block.length);
    if (end > begin) block.wanted_bytes += end - begin;
    block.tensors += end == End(run) ? run.tensor_count : TensorsBefore(plan, run, end);
    if (begin > run.file_offset) block.tensors -= TensorsBefore(plan, run, begin);
  }
}

}  // namespace

std::vector<Block> CutBlocks(const LoadPlan& plan, const BlockLimits& limits) {
  std::vector<Block> blocks;
  for (uint32_t e = 0; e < plan.extents.size(); ++e) {
    const Extent& extent = plan.extents[e];
    const uint64_t limit = extent.engine == Engine::kMapped ? limits.mapped_bytes : limits.buffered_bytes;
    const uint32_t last = extent.first_run + extent.run_count;
    uint64_t position = extent.offset;
    uint32_t run = extent.first_run;
    while (run < last) {
      Block block = {.extent = e, .offset = position, .first_run = run};
      uint64_t stop = std::min(Stop(position, limit), extent.offset + extent.length);
      while (run < last && run - block.first_run < limits.runs && End(plan.runs[run]) <= stop) ++run;
      block.end_run = run;
      if (run < last) {
        const TensorRun& cut = plan.runs[run];
        if (run - block.first_run == limits.runs || cut.file_offset >= stop) {
          stop = run > block.first_run ? End(plan.runs[run - 1]) : stop;
        } else {
          stop -= (stop - cut.file_offset) % ElementBytes(cut);
          if (stop > cut.file_offset) block.end_run = run + 1;
        }
      }
      block.length = stop - position;
      Count(plan, block);
      if (block.length > 0) blocks.push_back(block);
      position = run < last ? std::max(stop, plan.runs[run].file_offset) : stop;
    }
  }
  return blocks;
}

}  // namespace keyload
