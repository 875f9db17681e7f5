#include "server/io/page_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"
#include "server/base/rounding.h"
#include "server/io/file_end.h"
#include "server/io/file_system_kind.h"

namespace keyload {
namespace {

constexpr uint64_t kWarmPiece = 1u << 20;
constexpr uint64_t kPiecesUnderWay = 4;
constexpr uint64_t kReadAheadElse = 8u << 20;
constexpr uint64_t kLongestReadAhead = 1u << 30;
constexpr uint64_t kMincoreWindow = 64u << 20;
constexpr int kCachestat = 451;  // the system call's number, the same on all machines

UniqueFd OpenAgain(int fd, const StorageThreads::NotedMount& mount) {
  const StorageThreads::Operation operation(mount);
  return UniqueFd(::open(absl::StrCat("/proc/self/fd/", fd).c_str(), O_RDONLY | O_CLOEXEC));
}

// How far the kernel reads ahead in the file; much where it does not tell.
uint64_t ReadAheadBytes(int fd) {
  struct stat status;
  uint64_t kib;
  if (::fstat(fd, &status) != 0) return kReadAheadElse;
  std::ifstream setting(
      absl::StrCat("/sys/class/bdi/", major(status.st_dev), ":", minor(status.st_dev), "/read_ahead_kb"));
  return setting >> kib && kib <= kLongestReadAhead / 1024 ? kib * 1024 : kReadAheadElse;
}

// cachestat(2), which C libraries do not wrap yet: pages in the cache, or nothing where it is refused.
std::optional<uint64_t> CachedPages(int fd, ByteRange range) {
  struct {
    uint64_t offset, length;
  } asked = {range.offset, range.length};
  struct {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
  } told = {};
  if (::syscall(kCachestat, fd, &asked, &told, 0u) != 0) return std::nullopt;
  return told.cached;
}

// mincore shows everything as resident to those who may not know.
bool MayAskMincore(int fd) {
  struct stat status;
  if (::fstat(fd, &status) == 0 && status.st_uid == ::geteuid()) return true;
  return ::faccessat(fd, "", W_OK, AT_EMPTY_PATH | AT_EACCESS) == 0;
}

// The bytes of [begin, end), which is at most a window long, that are in the page cache.
std::optional<uint64_t> ResidentInWindow(int fd, uint64_t begin, uint64_t end) {
  const uint64_t page = PageBytes();
  const uint64_t map_begin = RoundDown(begin, page);
  const size_t map_length = end - map_begin;
  void* const address = ::mmap(nullptr, map_length, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(map_begin));
  if (address == MAP_FAILED) return std::nullopt;
  std::vector<unsigned char> pages((map_length + page - 1) / page);
  const int result = ::mincore(address, map_length, pages.data());
  ::munmap(address, map_length);
  if (result != 0) return std::nullopt;
  uint64_t resident = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    if ((pages[i] & 1) == 0) continue;
    const uint64_t page_begin = map_begin + i * page;
    resident += std::min(end, page_begin + page) - std::max(begin, page_begin);
  }
  return resident;
}

}  // namespace

PageCacheWarmer::PageCacheWarmer(int fd, std::string file, StorageThreads::NotedMount mount)
    : mount_(std::move(mount)),
      given_(fd),
      own_(OpenAgain(fd, mount_)),
      read_ahead_(ReadAheadBytes(fd)),
      file_(std::move(file)),
      buffer_(std::make_unique<std::byte[]>(kWarmPiece)) {}

absl::Status PageCacheWarmer::Warm(ByteRange range, const RequestContext& context, ReadCounts& counts) {
  if (!CanBeInFile(range)) return FileEndsEarly(file_, range.offset, range.length);
  KEYLOAD_RETURN_IF_ERROR(context.Check());
  const uint64_t cached = ResidentBytes(fd(), {&range, 1}).value_or(0);
  const uint64_t read_before = counts.read;
  const absl::Status status = WarmPart(range, range, context, counts);
  counts.cached += std::min(cached, counts.read - read_before);
  return status;
}

absl::Status PageCacheWarmer::WarmPart(ByteRange part, ByteRange whole, const RequestContext& context,
                                       ReadCounts& counts) {
  if (!CanBeInFile(part)) return FileEndsEarly(file_, part.offset, part.length);
  std::optional<StorageThreads::Operation> operation(std::in_place, mount_);
  const bool exactly = MustReadExactly(whole);
  if (own_) ::posix_fadvise(own_.get(), 0, 0, exactly ? POSIX_FADV_RANDOM : POSIX_FADV_NORMAL);
  const uint64_t end = part.offset + part.length;
  uint64_t told = part.offset;
  for (uint64_t begin = part.offset; begin < end;) {
    KEYLOAD_RETURN_IF_ERROR(context.Check());
    operation.emplace(mount_);
    const uint64_t length = std::min(end - begin, kWarmPiece);
    // Without read-ahead the kernel is told a few pieces before they are read.
    for (; exactly && told < end && told - begin < kPiecesUnderWay * kWarmPiece; told += kWarmPiece) {
      ::posix_fadvise(fd(), static_cast<off_t>(told), static_cast<off_t>(std::min(end - told, kWarmPiece)),
                      POSIX_FADV_WILLNEED);
    }
    KEYLOAD_RETURN_IF_ERROR(ReadAll({begin, length}, counts));
    begin += length;
  }
  return absl::OkStatus();
}

bool PageCacheWarmer::MustReadExactly(ByteRange whole) const {
  struct stat status;
  if (!own_ || ::fstat(own_.get(), &status) != 0) return true;
  const uint64_t size = static_cast<uint64_t>(status.st_size);
  const uint64_t end = whole.offset + whole.length;
  return size > end && std::min(size - end, 2 * read_ahead_) > whole.length / 20;
}

absl::Status PageCacheWarmer::ReadAll(ByteRange piece, ReadCounts& counts) {
  while (piece.length > 0) {
    const ssize_t got = ::pread(fd(), buffer_.get(), piece.length, static_cast<off_t>(piece.offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return ErrnoToStatus(errno, absl::StrCat("read of ", piece.length, " bytes at offset ", piece.offset), file_);
    }
    if (got == 0) return FileEndsEarly(file_, piece.offset, piece.length);
    const uint64_t read = static_cast<uint64_t>(got);
    counts.read += read;
    piece = {piece.offset + read, piece.length - read};
  }
  return absl::OkStatus();
}

std::optional<uint64_t> ResidentBytes(int fd, std::span<const ByteRange> ranges) {
  uint64_t resident = 0;
  for (const ByteRange& range : ranges) {
    if (range.length == 0 || !CanBeInFile(range)) continue;
    const std::optional<uint64_t> pages = CachedPages(fd, range);
    if (!pages.has_value()) return ResidentBytesByMincore(fd, ranges);
    resident += std::min(*pages * PageBytes(), range.length);
  }
  return resident;
}

std::optional<uint64_t> ResidentBytesByMincore(int fd, std::span<const ByteRange> ranges) {
  const absl::StatusOr<FileSystemKind> kind = FileSystemOf(fd, "");
  if (!kind.ok() || *kind != FileSystemKind::kLocal || !MayAskMincore(fd)) return std::nullopt;
  uint64_t resident = 0;
  for (const ByteRange& range : ranges) {
    if (!CanBeInFile(range)) continue;
    const uint64_t end = range.offset + range.length;
    for (uint64_t begin = range.offset; begin < end;) {
      const uint64_t window_end = std::min(end, RoundDown(begin, kMincoreWindow) + kMincoreWindow);
      const std::optional<uint64_t> in_window = ResidentInWindow(fd, begin, window_end);
      if (!in_window.has_value()) return std::nullopt;
      resident += *in_window;
      begin = window_end;
    }
  }
  return resident;
}

absl::Status DropFromPageCache(int fd, std::string_view file, std::span<const ByteRange> ranges) {
  for (const ByteRange& range : ranges) {
    // To the kernel a length of 0 means everything.
    if (range.length == 0 || !CanBeInFile(range)) continue;
    const int error =
        ::posix_fadvise(fd, static_cast<off_t>(range.offset), static_cast<off_t>(range.length), POSIX_FADV_DONTNEED);
    if (error != 0) return ErrnoToStatus(error, "posix_fadvise", file);
  }
  return absl::OkStatus();
}

}  // namespace keyload
