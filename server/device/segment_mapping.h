#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

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
  // In a memfd.
  static absl::StatusOr<SegmentMapping> Memfd(uint64_t bytes);
  // In a memfd of huge pages (2 MiB) of those that the operator has set aside. They are there when it returns: a
  // control group that allows fewer refuses to allocate them, but kills who touches one that is not there. An error
  // also where rounding up wastes more than `most_waste` bytes.
  static absl::StatusOr<SegmentMapping> HugeMemfd(uint64_t bytes, uint64_t most_waste = kHugePageBytes);

  // Makes a memfd's mapping as large as a new one of `bytes`. What was there stays as far as it fits; what is added is
  // 0 and without pages. May move. False where that cannot be done, as for huge pages that should grow.
  bool Resize(uint64_t bytes);

  std::byte* address() const { return address_; }
  uint64_t bytes() const { return bytes_; }  // a multiple of the page size
  // How much of a memfd's mapping has no pages yet. When nothing is missing, keeping it costs no memory that was not
  // there.
  uint64_t missing_bytes() const;
  // Makes the pages that a memfd lacks, with an error where touching them would kill.
  absl::Status Populate();
  // Writes to the memfd at `offset`, which makes pages where there are none. REQUIRES: ordinary pages, and the range
  // lies in the mapping.
  absl::Status Write(uint64_t offset, std::span<const std::byte> bytes);
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
