#include "attach/read_only_mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace keyload {

ReadOnlyMapping::ReadOnlyMapping(ReadOnlyMapping&& other) noexcept
    : address_(std::exchange(other.address_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      mapped_(std::exchange(other.mapped_, 0)) {}

ReadOnlyMapping& ReadOnlyMapping::operator=(ReadOnlyMapping&& other) noexcept {
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

ReadOnlyMapping::~ReadOnlyMapping() {
  if (mapped_ != 0) munmap(const_cast<std::byte*>(address_), mapped_);
}

absl::StatusOr<ReadOnlyMapping> ReadOnlyMapping::Map(int file, uint64_t bytes, uint64_t page) {
  ReadOnlyMapping mapping;
  if (bytes == 0) return mapping;
  const uint64_t length = (bytes + page - 1) / page * page;
  void* const address = mmap(nullptr, length, PROT_READ, MAP_SHARED, file, 0);
  if (address == MAP_FAILED) {
    const char* const hint = errno == ENOMEM ? "; vm.max_map_count bounds the maps of a process" : "";
    return absl::ResourceExhaustedError(absl::StrCat("mmap of ", length, " bytes: ", std::strerror(errno), hint));
  }
  madvise(address, length, MADV_DONTDUMP);
  mapping.address_ = static_cast<const std::byte*>(address);
  mapping.bytes_ = bytes;
  mapping.mapped_ = length;
  return mapping;
}

}  // namespace keyload
