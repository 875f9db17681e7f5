#include "server/load/blocks.h"

#include <algorithm>

#include "server/base/rounding.h"
#include "server/io/shard_reader.h"

namespace keyload {
namespace {

uint64_t End(const TensorRun& run) { return run.file_offset + run.stored_bytes; }

uint64_t ElementBytes(const TensorRun& run) {
  return run.converts() ? std::max<uint64_t>(DTypeBits(run.stored_dtype) / 8, 1) : 1;
}

// Where a block that begins at `position` ends at the latest.
uint64_t Stop(uint64_t position, uint64_t limit) {
  return limit < 2 * kSectorBytes ? position + limit : RoundDown(position, kSectorBytes) + limit;
}

// The reads of `run` that end at or before `offset`.
uint64_t ReadsBefore(const LoadPlan& plan, const TensorRun& run, uint64_t offset) {
  const auto begin = plan.reads().begin() + run.first_read;
  const auto ends_before = [&](const PlannedTensor& read) { return read.file_offset + read.stored_bytes <= offset; };
  return std::partition_point(begin, begin + run.read_count, ends_before) - begin;
}

void Count(const LoadPlan& plan, Block& block) {
  for (uint32_t i = block.first_run; i < block.end_run; ++i) {
    const TensorRun& run = plan.runs[i];
    const uint64_t begin = std::max(run.file_offset, block.offset);
    const uint64_t end = std::min(End(run), block.offset + block.length);
    if (end > begin) block.wanted_bytes += end - begin;
    block.tensors += end == End(run) ? run.read_count : ReadsBefore(plan, run, end);
    if (begin > run.file_offset) block.tensors -= ReadsBefore(plan, run, begin);
  }
}

}  // namespace

uint64_t SlabBytes(const LoadPlan& plan, const BlockLimits& limits) {
  uint64_t growth = 0;
  for (const TensorRun& run : plan.runs) {
    if (!run.converts()) continue;
    growth = std::max<uint64_t>(growth,
                                (DTypeBits(run.dtype) + DTypeBits(run.stored_dtype) - 1) / DTypeBits(run.stored_dtype));
  }
  return limits.buffered_bytes * (1 + growth);
}

std::optional<Block> BlockCutter::Next() {
  while (extent_ < plan_.extents.size()) {
    const Extent& extent = plan_.extents[extent_];
    if (!begun_) {
      begun_ = true;
      run_ = extent.first_run;
      position_ = extent.offset;
    }
    if (run_ == extent.first_run + extent.run_count) {
      begun_ = false;
      ++extent_;
      continue;
    }
    const Block block = Cut(extent);
    if (block.length > 0) return block;
  }
  return std::nullopt;
}

Block BlockCutter::Cut(const Extent& extent) {
  const uint64_t limit = extent.engine == Engine::kMapped ? limits_.mapped_bytes : limits_.buffered_bytes;
  const uint32_t last = extent.first_run + extent.run_count;
  Block block = {.extent = extent_, .offset = position_, .first_run = run_};
  uint64_t stop = std::min(Stop(position_, limit), extent.offset + extent.length);
  while (run_ < last && run_ - block.first_run < limits_.runs && End(plan_.runs[run_]) <= stop) ++run_;
  block.end_run = run_;
  if (run_ < last) {
    const TensorRun& cut = plan_.runs[run_];
    if (run_ - block.first_run == limits_.runs || cut.file_offset >= stop) {
      stop = run_ > block.first_run ? End(plan_.runs[run_ - 1]) : stop;
    } else {
      stop -= (stop - cut.file_offset) % ElementBytes(cut);
      if (stop > cut.file_offset) block.end_run = run_ + 1;
    }
  }
  block.length = stop - position_;
  Count(plan_, block);
  position_ = run_ < last ? std::max(stop, plan_.runs[run_].file_offset) : stop;
  return block;
}

}  // namespace keyload
