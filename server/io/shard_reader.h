#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/fd.h"
#include "server/base/request_context.h"

namespace keyload {

struct ReadCounts {
  uint64_t read = 0;    // bytes that read calls returned
  uint64_t cached = 0;  // part of it that was in the page cache
};

// What offsets, addresses and lengths of direct reads are multiples of: no less than any disk or file system asks for.
inline constexpr uint64_t kSectorBytes = 4096;

// Reads one file by offset. The seam where tests inject faults. Thread-safe. At most IOV_MAX buffers in each call, and
// `counts` is added to, also on failure.
class ShardReader {
 public:
  virtual ~ShardReader() = default;
  // Fills every buffer, in order, from `offset`; retries EINTR and short reads. Blocks on the disk.
  // CHECKPOINT_TRUNCATED with file and offset at end of file; IO_ERROR.
  virtual absl::Status ReadVector(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) = 0;
  // The same where the page cache holds the first byte; else false, nothing was read, and the disk was asked for no
  // more than one page. Also false where nobody can tell.
  virtual absl::StatusOr<bool> ReadCached(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) = 0;
  // Fills the buffers past the page cache, up to the end of the file; true when that gave at least `needed` bytes.
  // False when it cannot or fails, whatever the cause: the buffers are then undefined, and ReadVector works or says why
  // not. Costs nothing from the first refusal of the file system on. Blocks on the disk. REQUIRES: `offset`, and
  // address and length of every buffer, are multiples of kSectorBytes.
  virtual bool ReadDirect(uint64_t offset, std::span<const iovec> buffers, uint64_t needed, ReadCounts& counts) = 0;
  // A hint that the range will be read soon: the disk may start. Never fails.
  virtual void WillNeed(uint64_t offset, uint64_t length) = 0;
  // Brings [offset, offset + length) into the page cache without keeping a copy; never touches a mapping, so that a
  // file that shrank gives CHECKPOINT_TRUNCATED and no SIGBUS. Where the kernel cannot populate, reads and discards
  // (counted).
  virtual absl::Status Populate(uint64_t offset, uint64_t length, ReadCounts& counts) = 0;
};

// The real one, over a descriptor that is shared with the index; switches the kernel's read-ahead off for all who share
// it. `file` is for messages.
std::unique_ptr<ShardReader> MakeFileReader(std::shared_ptr<const UniqueFd> fd, std::string file);

}  // namespace keyload
