#include "server/io/page_cache_hold.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "server/base/byte_size.h"
#include "server/base/error.h"
#include "server/base/rounding.h"
#include "server/io/file_end.h"
#include "server/io/file_system_kind.h"

namespace keyload {
namespace {

constexpr uint64_t kHoldPiece = 16u << 20;
constexpr uint64_t kHoldMapping = 1u << 30;  // few mappings, of which the system allows a limited number

std::string LockRefusal(int error) {
  std::string why = absl::StrCat("mlock: ", std::strerror(error));
  rlimit locked = {};
  if (::getrlimit(RLIMIT_MEMLOCK, &locked) == 0 && locked.rlim_cur != RLIM_INFINITY) {
    absl::StrAppend(&why, " (RLIMIT_MEMLOCK is ", FormatByteSize(locked.rlim_cur), ")");
  }
  return why;
}

}  // namespace

HoldBudget::HoldBudget(uint64_t limit_bytes, std::function<uint64_t()> headroom)
    : headroom_(std::move(headroom)), limit_(limit_bytes) {}

std::optional<std::string> HoldBudget::Take(uint64_t bytes) {
  uint64_t coming = 0;
  {
    MutexLock lock(mutex_);
    if (held_ > limit_ || bytes > limit_ - held_) {
      return absl::StrCat("the budget of ", FormatByteSize(limit_), " is used up");
    }
    held_ += bytes;
    coming = coming_ += bytes;
  }
  absl::Cleanup undo = [&] {
    Settle(bytes);
    GiveBack(bytes);
  };
  // With what others are about to lock, which the system does not know of.
  if (const uint64_t headroom = headroom_(); coming > headroom) {
    return absl::StrCat("the system has ", FormatByteSize(headroom), " of memory left to hold");
  }
  std::move(undo).Cancel();
  return std::nullopt;
}

void HoldBudget::Settle(uint64_t bytes) {
  MutexLock lock(mutex_);
  coming_ -= bytes;
}

uint64_t HoldBudget::coming() const {
  MutexLock lock(mutex_);
  return coming_;
}

void HoldBudget::GiveBack(uint64_t bytes) {
  MutexLock lock(mutex_);
  held_ -= bytes;
}

void HoldBudget::set_limit(uint64_t limit_bytes) {
  MutexLock lock(mutex_);
  limit_ = limit_bytes;
}

uint64_t HoldBudget::held() const {
  MutexLock lock(mutex_);
  return held_;
}

HeldPages::HeldPages(HeldPages&& other) noexcept { *this = std::move(other); }

HeldPages& HeldPages::operator=(HeldPages&& other) noexcept {
  std::swap(budget_, other.budget_);
  std::swap(mappings_, other.mappings_);
  std::swap(held_, other.held_);
  std::swap(refused_, other.refused_);
  std::swap(refusal_, other.refusal_);
  return *this;
}

HeldPages::~HeldPages() {
  for (const Mapping& mapping : mappings_) ::munmap(mapping.address, mapping.length);
  if (budget_ != nullptr) budget_->GiveBack(held_);
}

// Fills a HeldPages.
class PageHolder {
 public:
  PageHolder(HoldBudget& budget, int fd, const std::string& file, const StorageThreads::NotedMount& mount)
      : fd_(fd), file_(file), mount_(mount), warmer_(fd, file, mount) {
    pages_.budget_ = &budget;
  }

  // `runs` share no page.
  absl::StatusOr<HeldPages> Hold(const std::vector<ByteRange>& runs, const RequestContext& context,
                                 ReadCounts& counts) {
    KEYLOAD_ASSIGN_OR_RETURN(const FileSystemKind kind, Kind());
    if (kind == FileSystemKind::kRemote) pages_.refusal_ = "files on this file system are not mapped";
    for (const ByteRange& run : runs) {
      const uint64_t end = run.offset + run.length;
      for (uint64_t begin = run.offset; begin < end;) {
        const Window window = {begin, std::min(end, RoundDown(begin, kHoldMapping) + kHoldMapping)};
        KEYLOAD_RETURN_IF_ERROR(HoldWindow(window, run, context, counts));
        begin = window.end;
      }
    }
    return std::move(pages_);
  }

 private:
  struct Window {
    uint64_t begin;
    uint64_t end;
  };

  absl::StatusOr<FileSystemKind> Kind() {
    const StorageThreads::Operation operation(mount_);
    return FileSystemOf(fd_, file_);
  }

  absl::Status HoldWindow(const Window& window, ByteRange run, const RequestContext& context, ReadCounts& counts) {
    const uint64_t map_begin = RoundDown(window.begin, PageBytes());
    const size_t map_length = RoundUp(window.end, PageBytes()) - map_begin;
    std::byte* address = nullptr;
    size_t locked = 0;
    absl::Status status;
    if (pages_.refusal_.empty()) {
      void* const mapped = ::mmap(nullptr, map_length, PROT_READ, MAP_SHARED, fd_, static_cast<off_t>(map_begin));
      if (mapped == MAP_FAILED) {
        pages_.refusal_ = absl::StrCat("mmap: ", std::strerror(errno));
      } else {
        address = static_cast<std::byte*>(mapped);
      }
    }
    while (status.ok() && pages_.refusal_.empty() && locked < map_length) {
      const size_t piece = std::min(map_length - locked, kHoldPiece);
      const uint64_t piece_begin = map_begin + locked;
      status = HoldPiece(address + locked, {piece_begin, piece_begin + piece}, window, run, context, counts);
      if (status.ok() && pages_.refusal_.empty()) locked += piece;
    }
    if (address != nullptr && locked < map_length) ::munmap(address + locked, map_length - locked);
    if (locked > 0) pages_.mappings_.push_back({address, locked});
    pages_.refused_ += map_length - locked;
    return status;
  }

  // Reads and locks the pages `piece` of `window`, which is a part of `run`, or sets the refusal.
  absl::Status HoldPiece(std::byte* address, const Window& piece, const Window& window, ByteRange run,
                         const RequestContext& context, ReadCounts& counts) {
    const uint64_t bytes = piece.end - piece.begin;
    if (std::optional<std::string> refusal = pages_.budget_->Take(bytes)) {
      pages_.refusal_ = *std::move(refusal);
      return absl::OkStatus();
    }
    bool kept = false;
    const absl::Cleanup settle = [&] {
      pages_.budget_->Settle(bytes);
      if (!kept) pages_.budget_->GiveBack(bytes);
    };
    const uint64_t begin = std::max(piece.begin, window.begin);
    const uint64_t end = std::min(piece.end, window.end);
    absl::Status status = warmer_.WarmPart({begin, end - begin}, run, context, counts);
    if (status.ok()) status = Lock(address, bytes, end);
    kept = status.ok() && pages_.refusal_.empty();
    if (kept) pages_.held_ += bytes;
    return status;
  }

  absl::Status Lock(std::byte* address, uint64_t bytes, uint64_t file_end) {
    const StorageThreads::Operation operation(mount_);
    if (::mlock(address, bytes) == 0) return absl::OkStatus();
    const int error = errno;
    // mlock says ENOMEM at its limit, and also for pages that the file has no more or that cannot be read.
    KEYLOAD_RETURN_IF_ERROR(CheckFileHolds(fd_, file_, /*begin=*/0, file_end));
    if (::madvise(address, bytes, MADV_POPULATE_READ) != 0 && errno == EFAULT) {
      return ErrnoToStatus(EIO, absl::StrCat("read of ", bytes, " bytes before offset ", file_end), file_);
    }
    pages_.refusal_ = LockRefusal(error);
    return absl::OkStatus();
  }

  const int fd_;
  const std::string& file_;
  const StorageThreads::NotedMount& mount_;
  PageCacheWarmer warmer_;
  HeldPages pages_;
};

absl::StatusOr<HeldPages> HoldInPageCache(HoldBudget& budget, int fd, const std::string& file,
                                          std::span<const ByteRange> ranges, const RequestContext& context,
                                          ReadCounts& counts, const StorageThreads::NotedMount& mount) {
  for (const ByteRange& range : ranges) {
    if (!CanBeInFile(range)) return FileEndsEarly(file, range.offset, range.length);
  }
  const uint64_t cached = ResidentBytes(fd, ranges).value_or(0);
  const uint64_t read_before = counts.read;
  PageHolder holder(budget, fd, file, mount);
  absl::StatusOr<HeldPages> held =
      holder.Hold(JoinRanges({ranges.begin(), ranges.end()}, PageBytes()), context, counts);
  counts.cached += std::min(cached, counts.read - read_before);
  return held;
}

}  // namespace keyload
