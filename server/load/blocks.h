#pragma once

#include <cstdint>
#include <optional>

#include "server/plan/load_plan.h"

namespace keyload {

// The unit of reading, of progress and of cancellation: a piece of one extent and the runs that it touches.
// No element of a run that is converted is cut in two, so that each block can be converted on its own.
struct Block {
  uint32_t extent = 0;
  uint64_t offset = 0;  // in the file
  uint64_t length = 0;
  uint32_t first_run = 0;     // first run with a byte in the block
  uint32_t end_run = 0;       // one past the last
  uint64_t wanted_bytes = 0;  // `length` without the gaps between runs
  uint64_t tensors = 0;       // that end in the block; a tensor of several parts counts with each
};

struct BlockLimits {
  uint64_t buffered_bytes = 4ull << 20;  // stays in the cache of a core while it is copied on
  uint64_t mapped_bytes = 64ull << 20;
  uint32_t runs = 400;  // two iovecs each must stay below IOV_MAX
};

// Cuts the blocks of a plan one after the other, so that a load's memory does not grow with the size of its files. From
// the second block of an extent on, blocks begin at whole sectors of the file where no element or run forbids it. With
// its first and last sector completed, a buffered block is not longer than the limit. `plan` is borrowed. Not
// thread-safe.
class BlockCutter {
 public:
  BlockCutter(const LoadPlan& plan, const BlockLimits& limits) : plan_(plan), limits_(limits) {}
  // Nothing after the last.
  std::optional<Block> Next();

 private:
  Block Cut(const Extent& extent);

  const LoadPlan& plan_;
  const BlockLimits limits_;
  uint32_t extent_ = 0;
  bool begun_ = false;     // run_ and position_ are in extent_
  uint32_t run_ = 0;       // the first that is not cut to its end
  uint64_t position_ = 0;  // in the file
};

// What the longest buffered block of a plan takes as it is read and, behind that, as it is converted.
uint64_t SlabBytes(const LoadPlan& plan, const BlockLimits& limits);

}  // namespace keyload
