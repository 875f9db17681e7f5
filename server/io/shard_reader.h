#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "server/base/fd.h"
#include "server/base/request_context.h"

namespace keyload {

struct ReadCounts {
  uint64_t read = 0;    // bytes that read calls returned
  uint64_t cached = 0;  // part of it that was in the page cache
};

// Reads one file by offset. The seam where tests inject faults. Thread-safe.
class ShardReader {
 public:
  virtual ~ShardReader() = default;
  // Fills every buffer, in order, from `offset`; retries EINTR and short reads. Blocks on the disk. At most IOV_MAX
  // buffers. CHECKPOINT_TRUNCATED with file and offset at end of file; IO_ERROR. `counts` is added to, also on failure.
  virtual absl::Status ReadVector(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) = 0;
  // Brings [offset, offset + length) into the page cache without keeping a copy; never touches a mapping, so that a
  // file that shrank gives CHECKPOINT_TRUNCATED and no SIGBUS. Where the kernel cannot populate, reads and discards
  // (counted).
  virtual absl::Status Populate(uint64_t offset, uint64_t length, ReadCounts& counts) = 0;
};

// The real one, over a descriptor that is shared with the index. `file` is for messages.
std::unique_ptr<ShardReader> MakeFileReader(std::shared_ptr<const UniqueFd> fd, std::string file);

}  // namespace keyload
