#include "server/device/memory_account.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/byte_size.h"
#include "server/base/error.h"

namespace keyload {

MemoryReservation::MemoryReservation(MemoryReservation&& other) noexcept
    : account_(std::exchange(other.account_, nullptr)), remaining_(std::exchange(other.remaining_, 0)) {}

MemoryReservation& MemoryReservation::operator=(MemoryReservation&& other) noexcept {
  std::swap(account_, other.account_);
  std::swap(remaining_, other.remaining_);
  return *this;
}

MemoryReservation::~MemoryReservation() {
  if (account_ != nullptr) account_->Unreserve(remaining_);
}

MemoryReservation MemoryReservation::Split(uint64_t bytes) {
  remaining_ -= bytes;
  return MemoryReservation(account_, bytes);
}

MemoryAccount::MemoryAccount(std::string device, uint64_t capacity_bytes) : device_(std::move(device)) {
  MutexLock lock(mutex_);
  state_.capacity = capacity_bytes;
}

absl::StatusOr<MemoryReservation> MemoryAccount::Reserve(uint64_t bytes) {
  MemoryState state;
  {
    MutexLock lock(mutex_);
    if (bytes <= state_.free()) {
      state_.reserved += bytes;
      return MemoryReservation(this, bytes);
    }
    state = state_;
  }
  return MakeError(Reason::kDeviceOutOfMemory,
                   absl::StrCat(device_, ": ", FormatByteSize(bytes), " (", bytes, " bytes) were asked for and ",
                                FormatByteSize(state.free()), " of ", FormatByteSize(state.capacity), " are free"),
                   {{"device", device_},
                    {"requested_bytes", absl::StrCat(bytes)},
                    {"free_bytes", absl::StrCat(state.free())},
                    {"capacity_bytes", absl::StrCat(state.capacity)}});
}

bool MemoryAccount::Commit(MemoryReservation& reservation, uint64_t bytes) {
  if (bytes > reservation.remaining_ || (reservation.account_ != this && bytes > 0)) return false;
  MutexLock lock(mutex_);
  reservation.remaining_ -= bytes;
  state_.reserved -= bytes;
  state_.used += bytes;
  return true;
}

void MemoryAccount::Uncommit(MemoryReservation& reservation, uint64_t bytes) {
  MutexLock lock(mutex_);
  reservation.remaining_ += bytes;
  state_.reserved += bytes;
  state_.used -= bytes;
}

void MemoryAccount::SetBacking(uint64_t idle, uint64_t huge) {
  MutexLock lock(mutex_);
  state_.idle = idle;
  state_.huge = huge;
}

void MemoryAccount::Free(uint64_t bytes) {
  {
    MutexLock lock(mutex_);
    state_.used -= bytes;
  }
  if (bytes > 0) TellListeners();
}

MemoryState MemoryAccount::state() const {
  MutexLock lock(mutex_);
  return state_;
}

void MemoryAccount::Unreserve(uint64_t bytes) {
  {
    MutexLock lock(mutex_);
    state_.reserved -= bytes;
  }
  if (bytes > 0) TellListeners();
}

void MemoryAccount::TellListeners() const {
  for (const std::function<void()>& listener : listeners_) listener();
}

}  // namespace keyload
