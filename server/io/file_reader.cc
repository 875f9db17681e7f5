#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"
#include "server/base/rounding.h"
#include "server/io/file_end.h"
#include "server/io/page_cache.h"
#include "server/io/shard_reader.h"

namespace keyload {
namespace {

constexpr uint64_t kPopulateWindow = 64ull << 20;  // address space per mapping, and the longest time without an answer
constexpr uint64_t kDiscardBlock = 1ull << 20;
constexpr uint64_t kShortRange = 64ull << 20;  // eight times the read-ahead of a large setting, 8 MiB

// What is left of a list of buffers.
class BufferCursor {
 public:
  explicit BufferCursor(std::span<const iovec> buffers) : buffers_(buffers.begin(), buffers.end()) {
    for (const iovec& buffer : buffers_) remaining_ += buffer.iov_len;
    SkipEmpty();
  }
  uint64_t remaining() const { return remaining_; }
  const iovec* data() const { return buffers_.data() + first_; }
  int count() const { return static_cast<int>(std::min<size_t>(buffers_.size() - first_, IOV_MAX)); }
  void Advance(uint64_t bytes) {
    remaining_ -= bytes;
    while (bytes > 0) {
      iovec& buffer = buffers_[first_];
      const uint64_t taken = std::min<uint64_t>(bytes, buffer.iov_len);
      buffer.iov_base = static_cast<std::byte*>(buffer.iov_base) + taken;
      buffer.iov_len -= taken;
      bytes -= taken;
      SkipEmpty();
    }
  }

 private:
  void SkipEmpty() {
    while (first_ < buffers_.size() && buffers_[first_].iov_len == 0) ++first_;
  }

  std::vector<iovec> buffers_;
  size_t first_ = 0;
  uint64_t remaining_ = 0;
};

class FileReader : public ShardReader {
 public:
  FileReader(std::shared_ptr<const UniqueFd> fd, std::string file) : fd_(std::move(fd)), file_(std::move(file)) {
    // Ranges are long, known beforehand and read by several threads: what the kernel would read on behind each of them
    // is wanted by nobody, or is being read already.
    ::posix_fadvise(fd_->get(), 0, 0, POSIX_FADV_RANDOM);
  }

  absl::Status ReadVector(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) override {
    BufferCursor cursor(buffers);
    if (!CanBeInFile({offset, cursor.remaining()})) return FileEndsEarly(file_, offset, cursor.remaining());
    offset += ReadCachedPart(offset, cursor, counts);
    return ReadRest(offset, cursor, counts);
  }

  absl::StatusOr<bool> ReadCached(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) override {
    BufferCursor cursor(buffers);
    if (cursor.remaining() == 0) return true;
    if (!CanBeInFile({offset, cursor.remaining()})) return FileEndsEarly(file_, offset, cursor.remaining());
    // Asked for more than a byte, kernels since 6.x start reading the whole range, RWF_NOWAIT or not: a direct read of
    // it would then have to share the disk with that.
    if (!IsCached(offset)) return false;
    offset += ReadCachedPart(offset, cursor, counts);
    KEYLOAD_RETURN_IF_ERROR(ReadRest(offset, cursor, counts));
    return true;
  }

  bool ReadDirect(uint64_t offset, std::span<const iovec> buffers, uint64_t needed, ReadCounts& counts) override {
    // Where cached and cold bytes look alike, going past a cache that holds them could be far slower.
    if (!can_read_direct_ || !can_probe_) return false;
    BufferCursor cursor(buffers);
    if (!CanBeInFile({offset, cursor.remaining()})) return false;
    // A description of its own, of the file that was opened and checked, whatever its path names now: O_DIRECT set on
    // the descriptor or a dup of it would hold for everyone who shares it. Opening it costs microseconds; keeping it
    // would be a second descriptor for every shard of every model.
    const UniqueFd direct(
        ::open(absl::StrCat("/proc/self/fd/", fd_->get()).c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK));
    if (!direct) {
      if (errno != EMFILE && errno != ENFILE) can_read_direct_ = false;
      return false;
    }
    uint64_t done = 0;
    while (done < needed) {
      const ssize_t got = ::preadv(direct.get(), cursor.data(), cursor.count(), static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno != EIO) can_read_direct_ = false;
      if (got <= 0) return false;
      counts.read += static_cast<uint64_t>(got);
      done += static_cast<uint64_t>(got);
      if (done >= needed) break;
      if (got % kSectorBytes != 0) return false;  // the end of the file
      cursor.Advance(static_cast<uint64_t>(got));
    }
    return true;
  }

  void WillNeed(uint64_t offset, uint64_t length) override {
    if (length == 0 || !CanBeInFile({offset, length})) return;
    ::posix_fadvise(fd_->get(), static_cast<off_t>(offset), static_cast<off_t>(length), POSIX_FADV_WILLNEED);
  }

  absl::Status Populate(uint64_t offset, uint64_t length, ReadCounts& counts) override {
    if (length == 0) return absl::OkStatus();
    if (!CanBeInFile({offset, length})) return FileEndsEarly(file_, offset, length);
    const uint64_t end = offset + length;
    if (AllCached(offset, end)) return CheckFileHolds(fd_->get(), file_, offset, end);
    // The kernel reads around a page that it must fetch, by more than the range if that is short. Asked for the range
    // beforehand, it reads that alone.
    if (length < kShortRange && !(IsCached(offset) && IsCached(end - 1))) WillNeed(offset, length);
    for (uint64_t begin = offset; begin < end && can_populate_;) {
      const uint64_t window_end = std::min(end, RoundDown(begin, kPopulateWindow) + kPopulateWindow);
      KEYLOAD_RETURN_IF_ERROR(PopulateWindow(begin, window_end));
      if (can_populate_) begin = window_end;
    }
    if (!can_populate_) return ReadAndDiscard(offset, end, counts);
    // The last page counts as there even if the file now ends inside it.
    return CheckFileHolds(fd_->get(), file_, offset, end);
  }

 private:
  // One read of what the page cache holds at `offset`; returns how much that was. Only one: a second could count what
  // the first made the kernel read ahead.
  uint64_t ReadCachedPart(uint64_t offset, BufferCursor& cursor, ReadCounts& counts) {
    if (!can_probe_ || cursor.remaining() == 0) return 0;
    const ssize_t got = ::preadv2(fd_->get(), cursor.data(), cursor.count(), static_cast<off_t>(offset), RWF_NOWAIT);
    if (got < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL)) can_probe_ = false;
    if (got <= 0) return 0;
    counts.read += static_cast<uint64_t>(got);
    counts.cached += static_cast<uint64_t>(got);
    cursor.Advance(static_cast<uint64_t>(got));
    return static_cast<uint64_t>(got);
  }

  absl::Status ReadRest(uint64_t offset, BufferCursor& cursor, ReadCounts& counts) {
    while (cursor.remaining() > 0) {
      const ssize_t got = ::preadv(fd_->get(), cursor.data(), cursor.count(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ReadError(errno, offset, cursor.remaining());
      if (got == 0) return FileEndsEarly(file_, offset, cursor.remaining());
      counts.read += static_cast<uint64_t>(got);
      cursor.Advance(static_cast<uint64_t>(got));
      offset += static_cast<uint64_t>(got);
    }
    return absl::OkStatus();
  }

  // To count pages is many times faster than to map and populate those that are there.
  bool AllCached(uint64_t begin, uint64_t end) const {
    const uint64_t first = RoundDown(begin, PageBytes());
    const ByteRange pages = {first, RoundUp(end, PageBytes()) - first};
    return ResidentBytes(fd_->get(), {&pages, 1}) == pages.length;
  }

  bool IsCached(uint64_t offset) {
    std::byte byte;
    const iovec buffer = {&byte, 1};
    BufferCursor cursor({&buffer, 1});
    ReadCounts uncounted;
    return ReadCachedPart(offset, cursor, uncounted) == 1;
  }

  // Clears can_populate_ and returns OK where the kernel or the file system cannot do it.
  absl::Status PopulateWindow(uint64_t begin, uint64_t end) {
    const uint64_t map_begin = RoundDown(begin, PageBytes());
    const size_t map_length = end - map_begin;
    void* const address = ::mmap(nullptr, map_length, PROT_READ, MAP_SHARED, fd_->get(), static_cast<off_t>(map_begin));
    if (address == MAP_FAILED) {
      if (errno != ENODEV) return ErrnoToStatus(errno, absl::StrCat("mmap at offset ", map_begin), file_);
      can_populate_ = false;
      return absl::OkStatus();
    }
    const int error = ::madvise(address, map_length, MADV_POPULATE_READ) == 0 ? 0 : errno;
    ::munmap(address, map_length);
    if (error == EINVAL || error == ENOSYS) {
      can_populate_ = false;
      return absl::OkStatus();
    }
    if (error == EFAULT) KEYLOAD_RETURN_IF_ERROR(CheckFileHolds(fd_->get(), file_, begin, end));
    return error == 0 ? absl::OkStatus() : ReadError(error == EFAULT ? EIO : error, begin, end - begin);
  }

  absl::Status ReadAndDiscard(uint64_t begin, uint64_t end, ReadCounts& counts) {
    std::vector<std::byte> scratch(std::min(kDiscardBlock, end - begin));
    while (begin < end) {
      const iovec buffer = {scratch.data(), std::min<uint64_t>(scratch.size(), end - begin)};
      KEYLOAD_RETURN_IF_ERROR(ReadVector(begin, {&buffer, 1}, counts));
      begin += buffer.iov_len;
    }
    return absl::OkStatus();
  }

  absl::Status ReadError(int error, uint64_t offset, uint64_t length) const {
    return ErrnoToStatus(error, absl::StrCat("read of ", length, " bytes at offset ", offset), file_);
  }

  const std::shared_ptr<const UniqueFd> fd_;
  const std::string file_;
  std::atomic<bool> can_probe_ = true;
  std::atomic<bool> can_populate_ = true;
  std::atomic<bool> can_read_direct_ = true;
};

}  // namespace

std::unique_ptr<ShardReader> MakeFileReader(std::shared_ptr<const UniqueFd> fd, std::string file) {
  return std::make_unique<FileReader>(std::move(fd), std::move(file));
}

}  // namespace keyload
