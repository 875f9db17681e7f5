#include "server/load/block_piece.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {

namespace {

absl::Status WriteFresh(int fd, uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      return MakeError(Reason::kDeviceOutOfMemory, StrCat("cpu: no memory for a segment: ", std::strerror(errno)),
                       {{"device", "cpu"}});
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteToHost(uint64_t offset, std::span<const std::byte> bytes, std::span<const BlockPiece> pieces) {
  const uint64_t end = offset + bytes.size();
  auto piece = std::partition_point(pieces.begin(), pieces.end(),
                                    [&](const BlockPiece& p) { return p.file_offset + p.length <= offset; });
  for (; piece != pieces.end() && piece->file_offset < end; ++piece) {
    const uint64_t begin = std::max(offset, piece->file_offset);
    const std::span<const std::byte> part =
        bytes.subspan(begin - offset, std::min(end, piece->file_offset + piece->length) - begin);
    const uint64_t before = begin - piece->file_offset;
    if (piece->fresh_fd >= 0) {
      KEYLOAD_RETURN_IF_ERROR(WriteFresh(piece->fresh_fd, piece->target_offset + before, part));
    } else {
      std::memcpy(piece->target.data() + before, part.data(), part.size());
    }
  }
  return absl::OkStatus();
}

}  // namespace keyload
