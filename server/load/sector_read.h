#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace keyload {

// Wanted bytes of a file and the host memory that they go to.
struct SectorPart {
  uint64_t file_offset = 0;
  std::span<std::byte> target;
};

// A byte range of a file that is read by whole sectors. Sectors that belong to one part and fit its target's alignment
// are read in place; the others go to scratch memory, from which the wanted bytes are copied. Not thread-safe; reused
// for range after range.
//
//   sectors   |..aaaa|aaaaaa|aaaaaa|aa..bb|bbbbb.|
//   read to    scratch  in place     scratch       nothing but wanted bytes reaches a target
class SectorRead {
 public:
  // REQUIRES: `parts` ascend, do not overlap and lie in [offset, offset + length).
  void Prepare(uint64_t offset, uint64_t length, std::span<const SectorPart> parts);
  uint64_t offset() const { return begin_; }
  uint64_t length() const { return end_ - begin_; }
  uint64_t scratch_bytes() const { return scratch_bytes_; }
  // Where to read to. `scratch` has scratch_bytes() bytes at a multiple of kSectorBytes.
  std::span<const iovec> Buffers(std::byte* scratch);
  // After reading: copies what went to `scratch` to its target.
  void CopyOut(const std::byte* scratch) const;

 private:
  struct Copy {
    uint64_t scratch_offset = 0;
    std::span<std::byte> target;
  };
  void ToScratch(uint64_t begin, uint64_t end);

  uint64_t begin_ = 0;
  uint64_t end_ = 0;
  uint64_t scratch_bytes_ = 0;
  std::vector<iovec> pieces_;  // in order; iov_base null: scratch
  std::vector<iovec> buffers_;
  std::vector<Copy> copies_;
};

// [offset, offset + length) by whole sectors.
uint64_t SectorBegin(uint64_t offset);
uint64_t SectorEnd(uint64_t end);

}  // namespace keyload
