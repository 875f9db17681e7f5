#include "server/load/slab_pool.h"

#include <chrono>

#include "server/base/error.h"
#include "server/base/no_throw.h"

namespace keyload {
namespace {

constexpr std::chrono::milliseconds kRecheck(50);  // of the context while waiting

}  // namespace

absl::StatusOr<std::span<std::byte>> SlabPool::Take(const RequestContext& context) {
  while (true) {
    bool first = false;
    {
      MutexLock lock(mutex_);
      while (free_.empty() && promised_ >= max_slabs_) {
        KEYLOAD_RETURN_IF_ERROR(context.Check());
        returned_.WaitFor(mutex_, kRecheck);
      }
      if (!free_.empty()) {
        std::byte* memory = free_.back();
        free_.pop_back();
        return std::span(memory, slab_bytes_);
      }
      // So that neither this one nor its return fails.
      slabs_.reserve(promised_ + 1);
      free_.reserve(promised_ + 1);
      first = promised_++ == 0;
    }
    // Only a load without any slab waits for the budget: one that has slabs gets them back, and would else wait for
    // itself.
    absl::StatusOr<ByteBudget::Grant> grant =
        NoThrow([&] { return first ? budget_.Acquire(slab_bytes_, context) : budget_.TryAcquire(slab_bytes_); });
    ScratchMemory memory;
    if (grant.ok()) memory = AllocateScratch(slab_bytes_);
    MutexLock lock(mutex_);
    if (memory != nullptr) {
      std::byte* const address = memory.get();
      slabs_.push_back({.grant = *std::move(grant), .memory = std::move(memory)});
      return std::span(address, slab_bytes_);
    }
    --promised_;
    returned_.NotifyAll();
    if (first) {
      if (!grant.ok()) return grant.status();
      return MakeError(Reason::kDeviceOutOfMemory, "cpu: no memory for a read buffer", {{"device", "cpu"}});
    }
    KEYLOAD_RETURN_IF_ERROR(context.Check());
    if (free_.empty()) returned_.WaitFor(mutex_, kRecheck);
  }
}

void SlabPool::PutBack(std::span<std::byte> slab) {
  {
    MutexLock lock(mutex_);
    free_.push_back(slab.data());
  }
  returned_.NotifyOne();
}

uint64_t SlabPool::peak_bytes() const {
  MutexLock lock(mutex_);
  return slabs_.size() * slab_bytes_;
}

}  // namespace keyload
