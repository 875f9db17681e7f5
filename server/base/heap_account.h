#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "server/base/mutex.h"

namespace keyload {

// Heap that some part of the daemon may use: counted before it is taken, since a control group that runs out kills and
// throws nothing. Small charges may go over the limit by a quarter of it, so that small requests are served while large
// ones use everything up. Charges may outlive everything but each other. Thread-safe, but for set_reclaim.
class HeapAccount {
 public:
  static constexpr uint64_t kSmallCharge = 256 << 10;

  explicit HeapAccount(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // `reclaim` is asked when room lacks, and returns whether it gave something back. Call before the account is used.
  void set_reclaim(std::function<bool()> reclaim) { reclaim_ = std::move(reclaim); }

  uint64_t limit_bytes() const { return limit_bytes_; }
  // OK if one request may have `bytes`: half of the account, so that it cannot keep all others out. MEMORY_EXHAUSTED
  // names `what`.
  absl::Status CheckForOne(uint64_t bytes, std::string_view what) const;
  uint64_t used_bytes() const { return used_bytes_; }

 private:
  friend class HeapCharge;
  // `bytes` more for a charge that is `charged` then.
  bool Take(uint64_t bytes, uint64_t charged);
  void Give(uint64_t bytes) { used_bytes_ -= bytes; }

  const uint64_t limit_bytes_;
  std::function<bool()> reclaim_;
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
    if (account_ != nullptr) account_->Give(bytes_);
  }

  // Makes the charge `bytes` large, or leaves it as it was: MEMORY_EXHAUSTED names `what`, which is to have them.
  absl::Status Resize(uint64_t bytes, std::string_view what);
  uint64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<HeapAccount> account_;
  uint64_t bytes_ = 0;
};

// `value`, which holds `charge` as long as anybody uses it.
template <typename Value>
std::shared_ptr<const Value> WithCharge(std::shared_ptr<const Value> value, HeapCharge charge) {
  struct Held {
    HeapCharge charge;
    std::shared_ptr<const Value> value;
  };
  const Value* const held = value.get();
  auto owner = std::make_shared<Held>(Held{.charge = std::move(charge), .value = std::move(value)});
  return std::shared_ptr<const Value>(std::move(owner), held);
}

// The heap that the work on one request takes, for tables that grow with what the request or its files bring.
// Thread-safe.
class RequestHeap {
 public:
  explicit RequestHeap(std::shared_ptr<HeapAccount> account) : account_(*account), charge_(std::move(account)) {}

  // Call before the heap is taken; it counts until the request is over. See
  // HeapAccount::CheckForOne and HeapCharge::Resize.
  absl::Status Take(uint64_t bytes, std::string_view what);

 private:
  const HeapAccount& account_;  // of charge_
  Mutex mutex_;
  HeapCharge charge_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
