#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace keyload {

// Heap that some part of the daemon may use: counted before it is taken, since a control group that runs out kills and
// throws nothing. Charges may outlive everything but each other. Thread-safe.
class HeapAccount {
 public:
  explicit HeapAccount(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  uint64_t limit_bytes() const { return limit_bytes_; }
  uint64_t used_bytes() const { return used_bytes_; }

 private:
  friend class HeapCharge;
  bool TryTake(uint64_t bytes) {
    uint64_t used = used_bytes_;
    do {
      if (bytes > limit_bytes_ || used > limit_bytes_ - bytes) return false;
    } while (!used_bytes_.compare_exchange_weak(used, used + bytes));
    return true;
  }

  const uint64_t limit_bytes_;
  std::atomic<uint64_t> used_bytes_ = 0;
};

// What one object takes of an account, given back when the charge is destroyed. Confine to one thread at a time.
class HeapCharge {
 public:
  HeapCharge() = default;
  explicit HeapCharge(std::shared_ptr<HeapAccount> account) : account_(std::move(account)) {}
  HeapCharge(HeapCharge&& other) noexcept
      : account_(std::move(other.account_)), bytes_(std::exchange(other.bytes_, 0)) {}
  HeapCharge& operator=(HeapCharge&& other) noexcept {
    std::swap(account_, other.account_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~HeapCharge() {
    if (account_ != nullptr) account_->used_bytes_ -= bytes_;
  }

  // Makes the charge `bytes` large; false, and as it was, when the account has no room for what that is more.
  [[nodiscard]] bool Resize(uint64_t bytes) {
    if (bytes > bytes_ && !account_->TryTake(bytes - bytes_)) return false;
    if (bytes < bytes_) account_->used_bytes_ -= bytes_ - bytes;
    bytes_ = bytes;
    return true;
  }
  uint64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<HeapAccount> account_;
  uint64_t bytes_ = 0;
};

}  // namespace keyload
