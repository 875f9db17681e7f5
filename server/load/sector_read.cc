#include "server/load/sector_read.h"

#include <algorithm>
#include <cstring>

#include "server/io/shard_reader.h"

namespace keyload {
namespace {

constexpr uint64_t kInPlace = 64ull << 10;  // below it a copy is cheaper than one more buffer

}  // namespace

uint64_t SectorBegin(uint64_t offset) { return offset / kSectorBytes * kSectorBytes; }

uint64_t SectorEnd(uint64_t end) { return (end + kSectorBytes - 1) / kSectorBytes * kSectorBytes; }

void SectorRead::Prepare(uint64_t offset, uint64_t length, std::span<const SectorPart> parts) {
  begin_ = SectorBegin(offset);
  end_ = SectorEnd(offset + length);
  scratch_bytes_ = 0;
  pieces_.clear();
  copies_.clear();
  uint64_t position = begin_;  // up to here every sector has a piece
  const auto copy = [&](const SectorPart& part, uint64_t begin, uint64_t end) {
    if (begin >= end) return;
    copies_.push_back({.scratch_offset = scratch_bytes_ + (begin - position),
                       .target = part.target.subspan(begin - part.file_offset, end - begin)});
  };
  for (const SectorPart& part : parts) {
    const uint64_t part_end = part.file_offset + part.target.size();
    const uint64_t in_begin = SectorEnd(part.file_offset);
    const uint64_t in_end = SectorBegin(part_end);
    const bool fits = (reinterpret_cast<uintptr_t>(part.target.data()) - part.file_offset) % kSectorBytes == 0;
    if (!fits || in_end < in_begin || in_end - in_begin < kInPlace) {
      copy(part, part.file_offset, part_end);
      continue;
    }
    copy(part, part.file_offset, in_begin);
    ToScratch(position, in_begin);
    pieces_.push_back({part.target.data() + (in_begin - part.file_offset), in_end - in_begin});
    position = in_end;
    copy(part, in_end, part_end);
  }
  ToScratch(position, end_);
}

void SectorRead::ToScratch(uint64_t begin, uint64_t end) {
  if (begin == end) return;
  pieces_.push_back({nullptr, end - begin});
  scratch_bytes_ += end - begin;
}

std::span<const iovec> SectorRead::Buffers(std::byte* scratch) {
  buffers_ = pieces_;
  for (iovec& buffer : buffers_) {
    if (buffer.iov_base != nullptr) continue;
    buffer.iov_base = scratch;
    scratch += buffer.iov_len;
  }
  return buffers_;
}

void SectorRead::CopyOut(const std::byte* scratch) const {
  for (const Copy& copy : copies_) std::memcpy(copy.target.data(), scratch + copy.scratch_offset, copy.target.size());
}

}  // namespace keyload
