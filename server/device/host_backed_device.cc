#include "server/device/host_backed_device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/byte_size.h"
#include "server/base/error.h"
#include "server/base/fd.h"

namespace keyload {
namespace {

struct Mapping {
  std::byte* address = nullptr;  // null for zero bytes
  UniqueFd fd;                   // the memfd, if there is one
};

class MappedMemory : public DeviceMemory {
 public:
  // Owns `mapping` and the `bytes` that `account` has charged for it.
  MappedMemory(MemoryAccount& account, Mapping mapping, uint64_t bytes, bool host_visible)
      : account_(account), mapping_(std::move(mapping)), bytes_(bytes), host_visible_(host_visible) {}
  ~MappedMemory() override {
    if (mapping_.address != nullptr) ::munmap(mapping_.address, bytes_);
    account_.Free(bytes_);
  }

  uint64_t bytes() const override { return bytes_; }
  std::span<std::byte> host() override {
    return host_visible_ ? std::span<std::byte>(mapping_.address, bytes_) : std::span<std::byte>();
  }
  std::byte* address() const { return mapping_.address; }
  const MemoryAccount* account() const { return &account_; }

 private:
  MemoryAccount& account_;
  Mapping mapping_;
  const uint64_t bytes_;
  const bool host_visible_;
};

// `bytes` of zeroed memory. errno's value as the error.
absl::StatusOr<Mapping> Map(HostBackedDevice::Backing backing, uint64_t bytes) {
  Mapping mapping;
  if (bytes == 0) return mapping;
  const auto error = [](const char* call) {
    return absl::ResourceExhaustedError(absl::StrCat(call, ": ", std::strerror(errno)));
  };
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (backing == HostBackedDevice::Backing::kMemfd) {
    flags = MAP_SHARED;
    if (bytes > static_cast<uint64_t>(std::numeric_limits<off_t>::max())) {
      errno = EFBIG;
      return error("memfd");
    }
    mapping.fd = UniqueFd(::memfd_create("keyload-segment", MFD_CLOEXEC));
    if (!mapping.fd) return error("memfd_create");
    if (::ftruncate(mapping.fd.get(), static_cast<off_t>(bytes)) != 0) return error("ftruncate");
  }
  void* const address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, mapping.fd.get(), 0);
  if (address == MAP_FAILED) return error("mmap");
  ::madvise(address, bytes, MADV_DONTDUMP);  // weights do not belong into core dumps
  mapping.address = static_cast<std::byte*>(address);
  return mapping;
}

}  // namespace

HostBackedDevice::HostBackedDevice(const Options& options)
    : info_(options.info),
      backing_(options.backing),
      account_(options.info.name, options.capacity_bytes),
      copies_(absl::StrCat("copy-", options.info.name), options.copy_bytes_per_second) {}

absl::StatusOr<std::unique_ptr<DeviceMemory>> HostBackedDevice::Allocate(MemoryReservation& reservation, uint64_t bytes,
                                                                         Contents /*contents*/) {
  if (bytes > reservation.remaining()) {
    return OutOfMemory(bytes, absl::StrCat("only ", reservation.remaining(), " bytes of the reservation are left"));
  }
  absl::StatusOr<Mapping> mapping = Map(backing_, bytes);
  if (!mapping.ok()) return OutOfMemory(bytes, mapping.status().message());
  if (!account_.Commit(reservation, bytes)) {
    ::munmap(mapping->address, bytes);
    return OutOfMemory(bytes, "the reservation is another device's");
  }
  return std::make_unique<MappedMemory>(account_, *std::move(mapping), bytes, backing_ == Backing::kMemfd);
}

void HostBackedDevice::CopyAsync(DeviceMemory& memory, uint64_t offset, std::span<const std::byte> source,
                                 absl::AnyInvocable<void(absl::Status)> done) {
  absl::StatusOr<std::byte*> destination = Locate(memory, offset, source.size());
  copies_.Submit({.refused = destination.status(),
                  .destination = destination.ok() ? *destination : nullptr,
                  .source = source,
                  .done = std::move(done)});
}

absl::Status HostBackedDevice::Read(DeviceMemory& memory, uint64_t offset, std::span<std::byte> destination) {
  KEYLOAD_ASSIGN_OR_RETURN(const std::byte* source, Locate(memory, offset, destination.size()));
  if (!destination.empty()) std::memcpy(destination.data(), source, destination.size());
  return absl::OkStatus();
}

absl::Status HostBackedDevice::OutOfMemory(uint64_t bytes, absl::string_view why) const {
  const MemoryState state = account_.state();
  return MakeError(Reason::kDeviceOutOfMemory,
                   absl::StrCat(info_.name, ": allocation of ", FormatByteSize(bytes), " (", bytes, " bytes): ", why),
                   {{"device", info_.name},
                    {"requested_bytes", absl::StrCat(bytes)},
                    {"free_bytes", absl::StrCat(state.free())},
                    {"capacity_bytes", absl::StrCat(state.capacity)}});
}

absl::StatusOr<std::byte*> HostBackedDevice::Locate(DeviceMemory& memory, uint64_t offset, uint64_t size) const {
  auto* const mapped = dynamic_cast<MappedMemory*>(&memory);
  if (mapped == nullptr || mapped->account() != &account_) {
    return MakeError(Reason::kInternal, absl::StrCat(info_.name, ": the memory is another device's"));
  }
  if (offset > mapped->bytes() || size > mapped->bytes() - offset) {
    return MakeError(Reason::kInternal, absl::StrCat(info_.name, ": bytes ", offset, " + ", size,
                                                     " leave a segment of ", mapped->bytes(), " bytes"));
  }
  return mapped->address() + offset;
}

}  // namespace keyload
