#include "server/device/segment_mapping.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
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
  return MapMemfd(bytes, SmallPage(), 0);
}

absl::StatusOr<SegmentMapping> SegmentMapping::HugeMemfd(uint64_t bytes, uint64_t most_waste) {
  if (bytes == 0) return SegmentMapping();
  if (bytes > kMaxBytes) return Refused("memfd_create", EFBIG);
  if (RoundUp(bytes, kHugePageBytes) - bytes > most_waste) return absl::ResourceExhaustedError("it would waste memory");
  absl::StatusOr<SegmentMapping> mapping = MapMemfd(bytes, kHugePageBytes, MFD_HUGETLB | MFD_HUGE_2MB);
  const absl::Status status = mapping.ok() ? mapping->Populate() : mapping.status();
  if (status.ok()) return mapping;
  return absl::ResourceExhaustedError(absl::StrCat(
      "huge pages: ", status.message(),
      ". Set more of them aside (vm.nr_hugepages), or allow them in the daemon's control group (hugetlb)"));
}

absl::StatusOr<SegmentMapping> SegmentMapping::MapMemfd(uint64_t bytes, uint64_t page_bytes, unsigned flags) {
  SegmentMapping mapping;
  const uint64_t rounded = RoundUp(bytes, page_bytes);
  mapping.fd_ = UniqueFd(::memfd_create("keyload-segment", MFD_CLOEXEC | flags));
  if (!mapping.fd_) return Refused("memfd_create", errno);
  if (::ftruncate(mapping.fd_.get(), static_cast<off_t>(rounded)) != 0) return Refused("ftruncate of a memfd", errno);
  // Of huge pages this sets them aside.
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

uint64_t SegmentMapping::missing_bytes() const {
  constexpr uint64_t kStatBlock = 512;
  struct stat status;
  if (!fd_ || ::fstat(fd_.get(), &status) != 0) return bytes_;
  return bytes_ - std::min(bytes_, static_cast<uint64_t>(status.st_blocks) * kStatBlock);
}

absl::Status SegmentMapping::Populate() {
  int error = 0;
  do {
    error = ::fallocate(fd_.get(), 0, 0, static_cast<off_t>(bytes_)) == 0 ? 0 : errno;
  } while (error == EINTR);
  return error == 0 ? absl::OkStatus() : Refused("fallocate of a memfd", error);
}

absl::Status SegmentMapping::Write(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return Refused("write to a memfd", written < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
  return absl::OkStatus();
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
