#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "server/base/mutex.h"
#include "server/device/copy_queue.h"
#include "server/device/device.h"
#include "server/device/idle_memory.h"
#include "server/device/segment_mapping.h"

namespace keyload {

// A device whose memory is mapped into this process: host memory itself, and GPUs that are simulated in it.
class HostBackedDevice : public Device {
 public:
  enum class Backing {
    kMemfd,      // a memfd per allocation, which host() shows
    kAnonymous,  // private pages that only copies reach
  };
  struct Options {
    DeviceInfo info;
    uint64_t capacity_bytes = 0;
    uint64_t reuse_bytes = 0;            // freed memory that is kept; memfds only
    size_t reuse_segments = 0;           // in at most as many pieces
    uint64_t copy_bytes_per_second = 0;  // 0: as fast as memory
    Backing backing = Backing::kMemfd;
    HugePages huge_pages = HugePages::kNever;  // of memfds
    HostMemoryRoom* room = nullptr;            // null: nobody is asked
  };
  explicit HostBackedDevice(const Options& options);

  const DeviceInfo& info() const override { return info_; }
  MemoryAccount& account() override { return account_; }
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(MemoryReservation& reservation, uint64_t bytes,
                                                         Contents contents) override;
  void CopyAsync(DeviceMemory& memory, uint64_t offset, std::span<const std::byte> source,
                 absl::AnyInvocable<void(absl::Status)> done) override;
  absl::Status Read(DeviceMemory& memory, uint64_t offset, std::span<std::byte> destination) override;

 private:
  class Memory;

  // Memory for one allocation.
  struct Backed {
    SegmentMapping mapping;
    HostMemoryRoom::Promise promise;  // that its pages may be made
    bool fresh = false;               // it has none yet
  };
  // New memory, or what an earlier allocation left. RESOURCE_EXHAUSTED says what was refused.
  absl::StatusOr<Backed> Map(uint64_t bytes, Contents contents, std::optional<SegmentMapping> idle);
  absl::StatusOr<Backed> MapNew(uint64_t bytes);
  // Calls `map`, and once more without idle memory when it fails.
  absl::StatusOr<SegmentMapping> MapOrTrimIdle(absl::FunctionRef<absl::StatusOr<SegmentMapping>()> map);
  absl::StatusOr<HostMemoryRoom::Promise> AskForRoom(uint64_t bytes);
  // Makes the pages that used memory lacks.
  absl::Status FillHoles(SegmentMapping& mapping);
  // Takes back what Allocate gave, to keep it where it has its pages and the budget and the capacity leave room.
  void Release(SegmentMapping mapping, uint64_t bytes);
  // How much idle memory there may be once `bytes` of the used ones are freed. Holds only while mutex_ is held.
  uint64_t IdleRoom(uint64_t bytes) const;
  // Frees idle memory, oldest first, until no more than `bytes` are left. Unmaps under the lock, so that the memory is
  // gone before its bytes are given to others.
  void TrimIdle(uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ShowBacking() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status OutOfMemory(uint64_t bytes, absl::string_view why) const;
  // The bytes [offset, offset + size) of `memory`; INTERNAL when it is not this device's or the range leaves it.
  absl::StatusOr<std::byte*> Locate(DeviceMemory& memory, uint64_t offset, uint64_t size) const;

  const DeviceInfo info_;
  const Backing backing_;
  const uint64_t reuse_bytes_;
  const size_t reuse_segments_;
  const HugePages huge_pages_;
  HostMemoryRoom* const room_;
  MemoryAccount account_;
  Mutex mutex_;  // held while used memory becomes idle or idle memory used: together they never exceed the capacity
  IdleMemory idle_ ABSL_GUARDED_BY(mutex_);
  uint64_t huge_used_ ABSL_GUARDED_BY(mutex_) = 0;
  CopyQueue copies_;
};

}  // namespace keyload
