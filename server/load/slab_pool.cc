#include "server/load/slab_pool.h"

#include <algorithm>
#include <chrono>
#include <utility>

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
      free_.reserve(promised_ + 1);  // so that putting it back never fails
      first = promised_++ == 0;
    }
    Slabs made;  // one, which moves to slabs_ without an allocation
    const absl::Status status = NoThrow([&]() -> absl::Status {
      // Only a load without any slab waits for the budget. One that has slabs gets them back, and would wait for
      // itself.
      KEYLOAD_ASSIGN_OR_RETURN(ByteBudget::Grant grant,
                               first ? budget_.Acquire(slab_bytes_, context) : budget_.TryAcquire(slab_bytes_));
      KEYLOAD_ASSIGN_OR_RETURN(ScratchMemory memory, AllocateScratch(slab_bytes_));
      std::byte* const address = memory.get();
      made.emplace(address, Slab{.grant = std::move(grant), .memory = std::move(memory)});
      return absl::OkStatus();
    });
    MutexLock lock(mutex_);
    if (status.ok()) {
      std::byte* const address = made.begin()->first;
      slabs_.merge(made);
      most_slabs_ = std::max(most_slabs_, slabs_.size());
      return std::span(address, slab_bytes_);
    }
    --promised_;
    returned_.NotifyAll();
    if (first) return status;
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
  if (budget_.awaited()) FreeIdle();
}

void SlabPool::FreeIdle() {
  Slabs freed;  // go after the lock, memory first: whoever gets their bytes may touch as many at once
  {
    MutexLock lock(mutex_);
    for (std::byte* const slab : free_) freed.insert(slabs_.extract(slab));
    promised_ -= free_.size();
    free_.clear();
  }
  returned_.NotifyAll();  // whoever waits for one of these makes a new one, or waits for the budget
}

uint64_t SlabPool::peak_bytes() const {
  MutexLock lock(mutex_);
  return most_slabs_ * slab_bytes_;
}

}  // namespace keyload
