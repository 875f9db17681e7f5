#include "server/load/block_piece.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {

absl::Status WriteFresh(uint64_t offset, std::span<const std::byte> bytes, std::span<const BlockPiece> pieces) {
  const uint64_t end = offset + bytes.size();
  auto piece = std::partition_point(pieces.begin(), pieces.end(),
                                    [&](const BlockPiece& p) { return p.file_offset + p.length <= offset; });
  for (; piece != pieces.end() && piece->file_offset < end; ++piece) {
    uint64_t position = std::max(offset, piece->file_offset);
    const uint64_t stop = std::min(end, piece->file_offset + piece->length);
    while (position < stop) {
      const ssize_t written = ::pwrite(piece->fresh_fd, bytes.data() + (position - offset), stop - position,
                                       static_cast<off_t>(piece->target_offset + (position - piece->file_offset)));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) {
        return MakeError(Reason::kDeviceOutOfMemory, StrCat("cpu: no memory for a segment: ", std::strerror(errno)),
                         {{"device", "cpu"}});
      }
      position += static_cast<uint64_t>(written);
    }
  }
  return absl::OkStatus();
}

}  // namespace keyload
