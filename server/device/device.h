#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/huge_pages.h"
#include "server/device/host_memory_room.h"
#include "server/device/memory_account.h"

namespace keyload {

struct DeviceInfo {
  std::string name;   // alias: "cpu", "cuda:0"
  std::string uuid;   // identity; empty for cpu
  std::string model;  // for people
  bool simulated = false;
};

// One allocation on a device. Destroying it gives its bytes back to the device's account; REQUIRES: no copy in flight
// touches it.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  virtual uint64_t bytes() const = 0;
  // Where the host can read and write it directly; empty on devices that need copies.
  virtual std::span<std::byte> host() = 0;
  // True for new host memory, which is 0 all over and has no pages yet. It is to be written by Write: that makes the
  // pages for half of what touching host() costs, and fails where touching would kill the process.
  virtual bool is_fresh() const { return false; }
  // Writes host memory at `offset`. Thread-safe for ranges that do not overlap. DEVICE_OUT_OF_MEMORY. REQUIRES: the
  // range lies in host().
  virtual absl::Status Write(uint64_t offset, std::span<const std::byte> bytes);
  // The one who allocated it has written what it will write: room that was promised for the rest is free for others.
  virtual void Settle() {}
};

// What newly allocated memory holds.
enum class Contents {
  kZeroed,
  // Anything, such as another model's bytes: the caller writes or zeroes every byte before anybody else sees it.
  kUnspecified,
};

// Memory of one device. Thread-safe. Host memory, simulated GPUs and CUDA implement it and pass
// tests/contract/device_contract_test.
class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;
  // Capacity and charges; Reserve on it before Allocate.
  virtual MemoryAccount& account() = 0;
  // Takes `bytes` out of `reservation` and backs them with memory. DEVICE_OUT_OF_MEMORY when the reservation is too
  // small or the system refuses.
  virtual absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(MemoryReservation& reservation, uint64_t bytes,
                                                                 Contents contents) = 0;
  // Starts a copy of `source` to `offset` of `memory` and returns; `done` runs exactly once, on a thread of the device,
  // after the bytes are there or the copy failed. `source` and `memory` must live until then; `done` must be short and
  // must not call back into the device.
  virtual void CopyAsync(DeviceMemory& memory, uint64_t offset, std::span<const std::byte> source,
                         absl::AnyInvocable<void(absl::Status)> done) = 0;
  // Copies `destination.size()` bytes at `offset` of `memory` to the host and waits for them.
  virtual absl::Status Read(DeviceMemory& memory, uint64_t offset, std::span<std::byte> destination) = 0;
};

struct HostDeviceOptions {
  uint64_t capacity_bytes = 0;  // bounds what keyload copies, not the page cache
  // Freed memory that is kept for the next allocations, within the capacity: they find its pages there.
  uint64_t reuse_bytes = 0;
  size_t reuse_segments = 1024;  // at most as many segments, a descriptor each
  HugePages huge_pages = HugePages::kNever;
  HostMemoryRoom* room = nullptr;  // that memory is asked of; null: nobody is asked. Outlives the device
};
// Host memory: segments are memfds, so that they can be shared.
std::unique_ptr<Device> MakeHostDevice(const HostDeviceOptions& options);

struct SimulatedGpuOptions {
  uint32_t index = 0;  // cuda:<index>
  uint64_t capacity_bytes = 0;
  uint64_t copy_bytes_per_second = 0;  // 0: as fast as memory; else copies take as long as on a link of that rate
  HostMemoryRoom* room = nullptr;      // as for host memory
};
// A GPU in host memory, with a capacity that is enforced and a thread of its own that finishes copies.
std::unique_ptr<Device> MakeSimulatedGpu(const SimulatedGpuOptions& options);

// The devices of the node, fixed at start: "cpu" and any GPUs. Thread-safe.
class DeviceSet {
 public:
  explicit DeviceSet(std::vector<std::unique_ptr<Device>> devices, std::vector<std::string> notes = {});
  const std::vector<std::unique_ptr<Device>>& devices() const { return devices_; }
  // For people: why a driver could not be opened, and how the devices' memory is kept now.
  std::vector<std::string> notes() const;
  // By alias; null when absent.
  Device* Find(std::string_view name) const;

 private:
  std::vector<std::unique_ptr<Device>> devices_;
  std::vector<std::string> notes_;
};

}  // namespace keyload
