#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/mutex.h"

namespace keyload {

class MemoryAccount;

// Bytes of one device that are promised to a load and not yet allocated. Gives the rest back when destroyed. Movable;
// confine to one load.
class MemoryReservation {
 public:
  MemoryReservation() = default;
  MemoryReservation(MemoryReservation&& other) noexcept;
  MemoryReservation& operator=(MemoryReservation&& other) noexcept;
  ~MemoryReservation();
  uint64_t remaining() const { return remaining_; }
  // `bytes` of it as a reservation of their own. REQUIRES: so many remain.
  MemoryReservation Split(uint64_t bytes);

 private:
  friend class MemoryAccount;
  MemoryReservation(MemoryAccount* account, uint64_t bytes) : account_(account), remaining_(bytes) {}
  MemoryAccount* account_ = nullptr;
  uint64_t remaining_ = 0;
};

struct MemoryState {
  uint64_t capacity = 0;
  uint64_t used = 0;      // allocated
  uint64_t reserved = 0;  // promised, not yet allocated
  uint64_t idle = 0;      // freed, and kept for the next allocations; counts as free, and goes when others need it
  uint64_t huge = 0;      // how much of the allocated and the idle memory is in huge pages
  uint64_t free() const { return capacity - used - reserved; }
};

// Counts one device's memory. Thread-safe; must outlive its reservations and allocations.
class MemoryAccount {
 public:
  MemoryAccount(std::string device, uint64_t capacity_bytes);
  // DEVICE_OUT_OF_MEMORY names the device, what was asked and what is free. Never blocks.
  absl::StatusOr<MemoryReservation> Reserve(uint64_t bytes);
  // Turns reserved bytes into used ones; false if the reservation is too small.
  bool Commit(MemoryReservation& reservation, uint64_t bytes);
  // Undoes a Commit.
  void Uncommit(MemoryReservation& reservation, uint64_t bytes);
  // Gives used bytes back.
  void Free(uint64_t bytes);
  // Only shows: what the device keeps and how.
  void SetBacking(uint64_t idle, uint64_t huge);
  MemoryState state() const;
  // Called whenever bytes become free, by whoever gives them back and with his locks: it must be short and call nobody
  // who allocates or frees. For the account's life; REQUIRES: nobody else uses the account yet.
  void AddListener(std::function<void()> listener) { listeners_.push_back(std::move(listener)); }

 private:
  friend class MemoryReservation;
  void Unreserve(uint64_t bytes);
  void TellListeners() const;

  const std::string device_;
  std::vector<std::function<void()>> listeners_;
  mutable Mutex mutex_;
  MemoryState state_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
