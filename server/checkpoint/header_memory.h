#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace keyload {

class HeaderCache;

// The heap that checkpoints take while their headers are parsed, and for what the headers said as long as an open
// checkpoint, a loaded model or the HeaderCache holds it; all of them together. A file decides how large its header
// is, so heap is counted before it is taken: a control group kills a process that goes over its limit, and there is no
// error that could be handled. Outlives everything that was counted. Thread-safe.
class HeaderMemory {
 public:
  explicit HeaderMemory(uint64_t limit_bytes) : limit_(limit_bytes) {}

  uint64_t limit() const { return limit_; }
  // One checkpoint may take half, so that it cannot keep all others out.
  uint64_t limit_per_open() const { return limit_ / 2; }
  uint64_t used() const { return used_; }

 private:
  friend class HeaderCharge;
  bool Take(uint64_t bytes);
  void Give(uint64_t bytes) { used_ -= bytes; }

  const uint64_t limit_;
  std::atomic<uint64_t> used_ = 0;
};

// What one checkpoint has of a HeaderMemory; gives it back when it is destroyed. Thread-safe.
class HeaderCharge {
 public:
  // Headers that only `cache` still holds make room for new ones; null: none do. Without `memory` nothing is counted.
  explicit HeaderCharge(HeaderMemory* memory, HeaderCache* cache = nullptr) : memory_(memory), cache_(cache) {}
  HeaderCharge(const HeaderCharge&) = delete;
  HeaderCharge& operator=(const HeaderCharge&) = delete;
  ~HeaderCharge();

  // Call before the heap is taken. MEMORY_EXHAUSTED names `file`.
  absl::Status Add(uint64_t bytes, std::string_view file);
  void Remove(uint64_t bytes);
  // From now on the checkpoint has `bytes`, which may be more than the limit by what estimates left out.
  void Settle(uint64_t bytes);

 private:
  HeaderMemory* const memory_;
  HeaderCache* const cache_;
  std::atomic<uint64_t> bytes_ = 0;
};

// The part of a charge for heap that is needed only while something is parsed. `charge` may be null. Not thread-safe.
class TemporaryCharge {
 public:
  explicit TemporaryCharge(HeaderCharge* charge) : charge_(charge) {}
  TemporaryCharge(const TemporaryCharge&) = delete;
  TemporaryCharge& operator=(const TemporaryCharge&) = delete;
  ~TemporaryCharge() {
    if (charge_ != nullptr) charge_->Remove(bytes_);
  }
  absl::Status Add(uint64_t bytes, std::string_view file);

 private:
  HeaderCharge* const charge_;
  uint64_t bytes_ = 0;
};

// Counts many small pieces of heap, which stay: in steps, so that a piece costs no more than an addition. `charge` may
// be null. Not thread-safe.
class SteppedCharge {
 public:
  explicit SteppedCharge(HeaderCharge* charge) : charge_(charge) {}
  absl::Status Add(uint64_t bytes, std::string_view file);

 private:
  HeaderCharge* const charge_;
  uint64_t room_ = 0;  // counted, and not taken yet
};

// Room in `list` for `count` elements, and by doubling for more than fit; counted before it is taken. `charge` may be
// null.
template <typename T>
absl::Status ReserveCounted(std::vector<T>& list, size_t count, HeaderCharge* charge, std::string_view file) {
  if (count <= list.capacity()) return absl::OkStatus();
  const size_t before = list.capacity();
  const size_t room = std::max(count, 2 * before);
  if (charge != nullptr) {
    if (absl::Status status = charge->Add(room * sizeof(T), file); !status.ok()) return status;
  }
  list.reserve(room);
  if (charge != nullptr) charge->Remove(before * sizeof(T));
  return absl::OkStatus();
}

// MEMORY_EXHAUSTED: the system gave no heap for `file`.
absl::Status NoHeapFor(std::string_view file);

// What `work` returns, or NoHeapFor(file) when it throws because there is no heap. The counted limit comes first; this
// is for what the system refuses below it, as under RLIMIT_AS.
template <typename Work>
auto CatchingNoHeap(std::string_view file, const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return NoHeapFor(file);
  } catch (const std::length_error&) {
    return NoHeapFor(file);
  }
}

}  // namespace keyload
