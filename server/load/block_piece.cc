#include "server/load/block_piece.h"

#include <algorithm>

#include "server/base/error.h"

namespace keyload {

absl::Status WriteToHost(uint64_t offset, std::span<const std::byte> bytes, std::span<const BlockPiece> pieces) {
  const uint64_t end = offset + bytes.size();
  auto piece = std::partition_point(pieces.begin(), pieces.end(),
                                    [&](const BlockPiece& p) { return p.file_offset + p.length <= offset; });
  for (; piece != pieces.end() && piece->file_offset < end; ++piece) {
    const uint64_t begin = std::max(offset, piece->file_offset);
    const std::span<const std::byte> part =
        bytes.subspan(begin - offset, std::min(end, piece->file_offset + piece->length) - begin);
    const uint64_t before = begin - piece->file_offset;
    KEYLOAD_RETURN_IF_ERROR(piece->memory->Write(piece->target_offset + before, part));
  }
  return absl::OkStatus();
}

}  // namespace keyload
