#include "server/load/slab_pool.h"

#include <chrono>
#include <new>

#include "server/base/error.h"

namespace keyload {

absl::StatusOr<std::span<std::byte>> SlabPool::Take(const RequestContext& context) {
  {
    MutexLock lock(mutex_);
    while (free_.empty() && promised_ >= max_slabs_) {
      KEYLOAD_RETURN_IF_ERROR(context.Check());
      returned_.WaitFor(mutex_, std::chrono::milliseconds(50));
    }
    if (!free_.empty()) {
      std::byte* memory = free_.back();
      free_.pop_back();
      return std::span(memory, slab_bytes_);
    }
    ++promised_;
  }
  absl::StatusOr<ByteBudget::Grant> grant = budget_.Acquire(slab_bytes_, context);
  std::unique_ptr<std::byte[]> memory;
  if (grant.ok()) memory.reset(new (std::nothrow) std::byte[slab_bytes_]);
  MutexLock lock(mutex_);
  if (memory == nullptr) {
    --promised_;
    returned_.NotifyOne();
    if (!grant.ok()) return grant.status();
    return MakeError(Reason::kDeviceOutOfMemory, "cpu: no memory for a read buffer", {{"device", "cpu"}});
  }
  std::byte* const address = memory.get();
  slabs_.push_back({.grant = *std::move(grant), .memory = std::move(memory)});
  return std::span(address, slab_bytes_);
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
