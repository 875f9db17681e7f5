#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "server/base/fd.h"

namespace keyload {

// Owns host memory that is mapped writable into this process, whole pages of it, and the memfd behind it if there is
// one. Core dumps leave it out. Movable; not thread-safe.
class SegmentMapping {
 public:
  SegmentMapping() = default;  // no bytes
  SegmentMapping(SegmentMapping&& other) noexcept;
  SegmentMapping& operator=(SegmentMapping&& other) noexcept;
  ~SegmentMapping();

  // At least `bytes` bytes, all 0, without pages until they are touched. The error's message names the call that was
  // refused and why.
  static absl::StatusOr<SegmentMapping> Anonymous(uint64_t bytes);  // private
  // In a memfd. Of huge pages (2 MiB) where the operator has set some aside, enough of them are free and rounding up
  // wastes at most a quarter of `bytes`; of ordinary pages else.
  static absl::StatusOr<SegmentMapping> Memfd(uint64_t bytes);

  // Makes a memfd's mapping as large as a new one of `bytes`. What was there stays as far as it fits; what is added is
  // 0 and without pages. May move. False where that cannot be done, as for huge pages that should grow.
  bool Resize(uint64_t bytes);

  std::byte* address() const { return address_; }
  int fd() const { return fd_.get(); }       // -1 without a memfd
  uint64_t bytes() const { return bytes_; }  // a multiple of the page size
  // Whether a memfd has every page of the mapping: then to keep it costs no memory that was not there.
  bool HasAllPages() const;
  bool huge() const { return page_bytes_ == kHugePageBytes; }

 private:
  static constexpr uint64_t kHugePageBytes = 2u << 20;

  static absl::StatusOr<SegmentMapping> MapMemfd(uint64_t bytes, uint64_t page_bytes, unsigned flags);
  void Adopt(void* address, uint64_t bytes, uint64_t page_bytes);

  std::byte* address_ = nullptr;
  uint64_t bytes_ = 0;
  uint64_t page_bytes_ = 0;
  UniqueFd fd_;
};

}  // namespace keyload
