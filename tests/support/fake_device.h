#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "server/base/mutex.h"
#include "server/device/device.h"

namespace keyload {

// A device for tests. Copies finish on its thread, and only while they are not held; the bytes that a copy will write
// are poisoned from CopyAsync until it has finished, so that code which does not wait for `done` is found out. So is
// memory of unspecified contents, so that bytes which were never written are.
// Thread-safe.
class FakeDevice : public Device {
 public:
  static constexpr std::byte kPoison{0xdb};

  struct Options {
    std::string name = "cuda:0";
    uint64_t capacity_bytes = 1ull << 30;
    bool host_visible = false;     // host() shows the memory
    uint64_t fail_copy = 0;        // the copy of this number, counted from 1, fails with INTERNAL; 0: none
    uint64_t throw_copy = 0;       // starting the copy of this number throws std::bad_alloc; 0: none
    uint64_t fail_allocation = 0;  // the allocation of this number fails as if the system refused it; 0: none
  };
  explicit FakeDevice(Options options);
  // Releases and finishes the copies that are queued.
  ~FakeDevice() override;

  // From now on copies wait until ReleaseCopies.
  void HoldCopies();
  void ReleaseCopies();
  // Blocks until `count` copies have been asked for since the device was made.
  void WaitForCopiesStarted(uint64_t count);

  uint64_t allocations() const;       // that succeeded
  uint64_t live_allocations() const;  // not destroyed yet
  uint64_t copies_started() const;
  uint64_t copies_finished() const;  // `done` has returned, with an error or without

  const DeviceInfo& info() const override { return info_; }
  MemoryAccount& account() override { return account_; }
  absl::StatusOr<std::unique_ptr<DeviceMemory>> Allocate(MemoryReservation& reservation, uint64_t bytes,
                                                         Contents contents) override;
  void CopyAsync(DeviceMemory& memory, uint64_t offset, std::span<const std::byte> source,
                 absl::AnyInvocable<void(absl::Status)> done) override;
  absl::Status Read(DeviceMemory& memory, uint64_t offset, std::span<std::byte> destination) override;

 private:
  class Memory;
  struct Copy {
    absl::Status refused;
    std::byte* destination = nullptr;
    std::span<const std::byte> source;
    absl::AnyInvocable<void(absl::Status)> done;
  };

  void Work();
  absl::StatusOr<std::byte*> Locate(DeviceMemory& memory, uint64_t offset, uint64_t size);

  const Options options_;
  const DeviceInfo info_;
  MemoryAccount account_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Copy> queue_ ABSL_GUARDED_BY(mutex_);
  uint64_t allocation_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t allocations_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t live_allocations_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t copies_started_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t copies_finished_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace keyload
