#include "server/device/segment_mapping.h"

#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/rounding.h"

namespace keyload {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{std::numeric_limits<off_t>::max()} / 2;  // rounding up cannot overflow

uint64_t SmallPage() { return static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)); }

absl::Status Refused(const char* call, int error) {
  std::string why = absl::StrCat(call, ": ", std::strerror(error));
  rlimit files = {};
  if (error == EMFILE && ::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    absl::StrAppend(&why, ": every segment is a descriptor, and this process may have ", files.rlim_cur,
                    " (RLIMIT_NOFILE)");
  }
  return absl::ResourceExhaustedError(why);
}

}  // namespace

SegmentMapping::SegmentMapping(SegmentMapping&& other) noexcept
    : address_(std::exchange(other.address_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      page_bytes_(std::exchange(other.page_bytes_, 0)),
      fd_(std::move(other.fd_)) {}

SegmentMapping& SegmentMapping::operator=(SegmentMapping&& other) noexcept {
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  std::swap(page_bytes_, other.page_bytes_);
  std::swap(fd_, other.fd_);
  return *this;
}

SegmentMapping::~SegmentMapping() {
  if (address_ != nullptr) ::munmap(address_, bytes_);
}

absl::StatusOr<SegmentMapping> SegmentMapping::Anonymous(uint64_t bytes) {
  SegmentMapping mapping;
  if (bytes == 0) return mapping;
  if (bytes > kMaxBytes) return Refused("mmap", EFBIG);
  const uint64_t rounded = RoundUp(bytes, SmallPage());
  void* const address =
      ::mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) return Refused("mmap", errno);
  mapping.Adopt(address, rounded, SmallPage());
  return mapping;
}

absl::StatusOr<SegmentMapping> SegmentMapping::Memfd(uint64_t bytes) {
  if (bytes == 0) return SegmentMapping();
  if (bytes > kMaxBytes) return Refused("memfd_create", EFBIG);
  if (RoundUp(bytes, kHugePageBytes) - bytes <= bytes / 4) {
    absl::StatusOr<SegmentMapping> huge = MapMemfd(bytes, kHugePageBytes, MFD_HUGETLB | MFD_HUGE_2MB);
    if (huge.ok()) return huge;
  }
  return MapMemfd(bytes, SmallPage(), 0);
}

absl::StatusOr<SegmentMapping> SegmentMapping::MapMemfd(uint64_t bytes, uint64_t page_bytes, unsigned flags) {
  SegmentMapping mapping;
  const uint64_t rounded = RoundUp(bytes, page_bytes);
  mapping.fd_ = UniqueFd(::memfd_create("keyload-segment", MFD_CLOEXEC | flags));
  if (!mapping.fd_) return Refused("memfd_create", errno);
  if (::ftruncate(mapping.fd_.get(), static_cast<off_t>(rounded)) != 0) return Refused("ftruncate of a memfd", errno);
  // Of huge pages this sets them aside, so that touching them later cannot fail.
  void* const address = ::mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_SHARED, mapping.fd_.get(), 0);
  if (address == MAP_FAILED) return Refused("mmap of a memfd", errno);
  mapping.Adopt(address, rounded, page_bytes);
  return mapping;
}

void SegmentMapping::Adopt(void* address, uint64_t bytes, uint64_t page_bytes) {
  address_ = static_cast<std::byte*>(address);
  bytes_ = bytes;
  page_bytes_ = page_bytes;
  ::madvise(address, bytes, MADV_DONTDUMP);  // weights do not belong into core dumps
}

bool SegmentMapping::HasAllPages() const {
  constexpr uint64_t kStatBlock = 512;
  struct stat status;
  return fd_ && ::fstat(fd_.get(), &status) == 0 && static_cast<uint64_t>(status.st_blocks) * kStatBlock >= bytes_;
}

bool SegmentMapping::Resize(uint64_t bytes) {
  if (address_ == nullptr || !fd_ || bytes == 0 || bytes > kMaxBytes) return false;
  const uint64_t rounded = RoundUp(bytes, page_bytes_);
  if (rounded < bytes_) {
    if (::munmap(address_ + rounded, bytes_ - rounded) != 0) return false;
    bytes_ = rounded;
    return ::ftruncate(fd_.get(), static_cast<off_t>(rounded)) == 0;
  }
  if (rounded > bytes_) {
    if (huge() || ::ftruncate(fd_.get(), static_cast<off_t>(rounded)) != 0) return false;
    void* const moved = ::mremap(address_, bytes_, rounded, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED) return false;
    address_ = static_cast<std::byte*>(moved);
    bytes_ = rounded;
  }
  return true;
}

}  // namespace keyload
