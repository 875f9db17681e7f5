#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/fd.h"
#include "server/base/request_context.h"
#include "server/io/shard_reader.h"

namespace keyload {

// What the page cache holds of a file, and how to change that. Nothing here dereferences a mapping of the file.

struct ByteRange {
  uint64_t offset = 0;
  uint64_t length = 0;
};

// Whether files can be long enough to have `range`.
bool CanBeInFile(ByteRange range);

uint64_t PageBytes();

// Brings ranges of one file into the page cache: by reads of at most 1 MiB into one buffer, a few of them under way at
// a time, and never through a mapping, so that it works as well on network file systems. What lies outside of a range
// is not read, but for the rest of its first and last page. Not thread-safe; make one per thread.
class PageCacheWarmer {
 public:
  // `fd` must be open for reading and outlive this; `file` is for messages.
  PageCacheWarmer(int fd, std::string file);

  // Blocks on the disk. LOAD_CANCELLED and DEADLINE_EXCEEDED between pieces; CHECKPOINT_TRUNCATED with file and offset;
  // IO_ERROR. `counts` is added to, also on failure: what was read, and the part of it that was there before.
  absl::Status Warm(ByteRange range, const RequestContext& context, ReadCounts& counts);

 private:
  // Reads what the page cache holds at the start of `piece` and starts the reading of the rest, which it returns.
  ByteRange ReadCached(ByteRange piece, ReadCounts& counts);
  absl::Status ReadAll(ByteRange piece, ReadCounts& counts);
  int fd() const { return own_ ? own_.get() : given_; }

  const int given_;
  const UniqueFd own_;  // the same file opened again, so that advice for it is not advice for other readers
  const std::string file_;
  const std::unique_ptr<std::byte[]> buffer_;
};

// How many bytes of `ranges` are in the page cache now, counted in pages. Reads nothing. Nothing where the system does
// not tell: it does so only to the owner of a file and to those who may write it, and, before Linux 6.5, not for files
// that must not be mapped (FileSystemKind).
std::optional<uint64_t> ResidentBytes(int fd, std::span<const ByteRange> ranges);
// The way before Linux 6.5, for which the file is mapped, though never touched.
std::optional<uint64_t> ResidentBytesByMincore(int fd, std::span<const ByteRange> ranges);

// Drops the pages that lie wholly inside of `ranges` from the page cache, but for those that are dirty, mapped or
// locked. IO_ERROR. `file` is for messages.
absl::Status DropFromPageCache(int fd, std::string_view file, std::span<const ByteRange> ranges);

}  // namespace keyload
