#pragma once

#include <cstdint>
#include <memory>

#include "absl/strings/string_view.h"
#include "server/device/copy_queue.h"
#include "server/device/device.h"

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
    uint64_t copy_bytes_per_second = 0;  // 0: as fast as memory
    Backing backing = Backing::kMemfd;
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
  absl::Status OutOfMemory(uint64_t bytes, absl::string_view why) const;
  // The bytes [offset, offset + size) of `memory`; INTERNAL when it is not this device's or the range leaves it.
  absl::StatusOr<std::byte*> Locate(DeviceMemory& memory, uint64_t offset, uint64_t size) const;

  const DeviceInfo info_;
  const Backing backing_;
  MemoryAccount account_;
  CopyQueue copies_;
};

}  // namespace keyload
