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
#include "server/io/byte_range.h"
#include "server/io/shard_reader.h"
#include "server/io/storage_threads.h"

namespace keyload {

// What the page cache holds of a file, and how to change that. Nothing here dereferences a mapping of the file.

// Brings ranges of one file into the page cache: by reads of 1 MiB into one buffer, in order, and never through a
// mapping, so that it works as well on network file systems. Not thread-safe; make one per thread.
//
// The kernel's own read-ahead fills the cache with large folios, which are many times faster to map and to read than
// single pages, but goes up to two of its windows beyond the end. So it is let do that where it reads at most 5 % more,
// as at the end of the file; elsewhere nothing is read but the range and the rest of its first and last page.
class PageCacheWarmer {
 public:
  // `fd` must be open for reading and outlive this; `file` is for messages. Whatever touches the file is noted as an
  // Operation of `mount`.
  PageCacheWarmer(int fd, std::string file, StorageThreads::NotedMount mount = {});

  // Blocks on the disk. LOAD_CANCELLED and DEADLINE_EXCEEDED between pieces; CHECKPOINT_TRUNCATED with file and offset;
  // IO_ERROR. `counts` is added to, also on failure: what was read, and the part of it that was there before, where
  // ResidentBytes tells.
  absl::Status Warm(ByteRange range, const RequestContext& context, ReadCounts& counts);
  // The same for a part of `whole`, all of which the caller wants, part by part. Does not count what was there before.
  absl::Status WarmPart(ByteRange part, ByteRange whole, const RequestContext& context, ReadCounts& counts);

 private:
  // Whether the kernel's read-ahead would read too much behind `whole`.
  bool MustReadExactly(ByteRange whole) const;
  absl::Status ReadAll(ByteRange piece, ReadCounts& counts);
  int fd() const { return own_ ? own_.get() : given_; }

  const StorageThreads::NotedMount mount_;
  const int given_;
  const UniqueFd own_;  // the same file opened again, so that advice for it is not advice for other readers
  const uint64_t read_ahead_;
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
