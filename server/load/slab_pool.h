#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/io/byte_budget.h"
#include "server/load/scratch_memory.h"

namespace keyload {

// Scratch buffers ("slabs") of one load, all of one size, at multiples of kSectorBytes. A slab that is put back is kept
// for the next block, so that its pages are faulted in once, unless another load waits for the budget: then it goes to
// that load, and so does every slab that lies idle. Thread-safe.
class SlabPool {
 public:
  // At most `max_slabs` exist at a time; each holds `slab_bytes` of `budget`, which outlives the pool.
  SlabPool(ByteBudget& budget, uint64_t slab_bytes, size_t max_slabs)
      : budget_(budget), slab_bytes_(slab_bytes), max_slabs_(max_slabs), reclaimer_(budget, [this] { FreeIdle(); }) {}

  // A free slab, or a new one within the limits, or the next one that is put back. Blocks; the context ends the wait.
  absl::StatusOr<std::span<std::byte>> Take(const RequestContext& context);
  void PutBack(std::span<std::byte> slab);
  uint64_t peak_bytes() const;

 private:
  struct Slab {
    ByteBudget::Grant grant;
    ScratchMemory memory;
  };
  using Slabs = std::map<std::byte*, Slab>;  // by address

  void FreeIdle();

  ByteBudget& budget_;
  const uint64_t slab_bytes_;
  const size_t max_slabs_;
  mutable Mutex mutex_;
  CondVar returned_;
  Slabs slabs_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::byte*> free_ ABSL_GUARDED_BY(mutex_);
  size_t promised_ ABSL_GUARDED_BY(mutex_) = 0;    // slabs that exist or are being made
  size_t most_slabs_ ABSL_GUARDED_BY(mutex_) = 0;  // that existed at a time
  const ByteBudget::Reclaimer reclaimer_;          // last: it uses all of the above
};

}  // namespace keyload
