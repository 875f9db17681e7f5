#include "server/device/host_backed_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/byte_size.h"
#include "server/base/error.h"

namespace keyload {
namespace {

constexpr uint64_t kLeastKept = 1ull << 20;

}  // namespace

class HostBackedDevice::Memory : public DeviceMemory {
 public:
  // Owns `mapping` and the `bytes` that the device has charged for it.
  Memory(HostBackedDevice& device, SegmentMapping mapping, uint64_t bytes, bool fresh)
      : device_(device), mapping_(std::move(mapping)), bytes_(bytes), fresh_(fresh) {}
  ~Memory() override { device_.Release(std::move(mapping_), bytes_); }

  uint64_t bytes() const override { return bytes_; }
  std::span<std::byte> host() override {
    return device_.backing_ == Backing::kMemfd ? std::span<std::byte>(address(), bytes_) : std::span<std::byte>();
  }
  // Huge pages cannot be written to by descriptor.
  int fresh_fd() const override { return fresh_ && !mapping_.huge() ? mapping_.fd() : -1; }
  std::byte* address() const { return mapping_.address(); }
  const HostBackedDevice* device() const { return &device_; }

 private:
  HostBackedDevice& device_;
  SegmentMapping mapping_;
  const uint64_t bytes_;
  const bool fresh_;
};

HostBackedDevice::HostBackedDevice(const Options& options)
    : info_(options.info),
      backing_(options.backing),
      reuse_bytes_(options.reuse_bytes),
      reuse_segments_(options.reuse_segments),
      account_(options.info.name, options.capacity_bytes),
      copies_(absl::StrCat("copy-", options.info.name), options.copy_bytes_per_second) {}

absl::StatusOr<std::unique_ptr<DeviceMemory>> HostBackedDevice::Allocate(MemoryReservation& reservation, uint64_t bytes,
                                                                         Contents contents) {
  if (bytes > reservation.remaining()) {
    return OutOfMemory(bytes, absl::StrCat("only ", reservation.remaining(), " bytes of the reservation are left"));
  }
  std::optional<SegmentMapping> idle;
  {
    MutexLock lock(mutex_);
    if (bytes > 0) idle = idle_.Take(bytes);
    const MemoryState state = account_.state();
    const uint64_t room = state.capacity - state.used;
    TrimIdle(room - std::min(room, bytes));
    if (!account_.Commit(reservation, bytes)) return OutOfMemory(bytes, "the reservation is another device's");
  }
  const bool fresh = !idle.has_value();
  absl::StatusOr<SegmentMapping> mapping = Map(bytes, contents, std::move(idle));
  MutexLock lock(mutex_);
  if (!mapping.ok()) {
    account_.Uncommit(reservation, bytes);
    return OutOfMemory(bytes, mapping.status().message());
  }
  if (mapping->huge()) huge_used_ += mapping->bytes();
  ShowBacking();
  return std::make_unique<Memory>(*this, *std::move(mapping), bytes, fresh);
}

absl::StatusOr<SegmentMapping> HostBackedDevice::Map(uint64_t bytes, Contents contents,
                                                     std::optional<SegmentMapping> idle) {
  if (!idle.has_value()) return MapNew(bytes);
  // What lies behind the last byte is seen by those that a memfd is shared with.
  const uint64_t kept = contents == Contents::kZeroed ? 0 : bytes;
  std::memset(idle->address() + kept, 0, idle->bytes() - kept);
  return *std::move(idle);
}

absl::StatusOr<SegmentMapping> HostBackedDevice::MapNew(uint64_t bytes) {
  if (backing_ == Backing::kAnonymous) return SegmentMapping::Anonymous(bytes);
  absl::StatusOr<SegmentMapping> mapping = SegmentMapping::Memfd(bytes);
  if (mapping.ok()) return mapping;
  {
    MutexLock lock(mutex_);
    if (idle_.empty()) return mapping;
    TrimIdle(0);  // idle memory holds descriptors and address space too
  }
  return SegmentMapping::Memfd(bytes);
}

void HostBackedDevice::Release(SegmentMapping mapping, uint64_t bytes) {
  const uint64_t mapped = mapping.bytes();
  const uint64_t huge = mapping.huge() ? mapped : 0;
  // A segment with holes, as lazy keys and cancelled loads leave, would only get its pages here. A small one is not
  // worth the descriptor.
  const bool keep = mapped >= kLeastKept && mapped <= IdleRoom(bytes) && reuse_segments_ > 0 && mapping.HasAllPages();
  if (!keep) mapping = SegmentMapping();
  // What was written by descriptor has pages, but not in this process: the next user should not meet them one by one.
  if (keep) ::madvise(mapping.address(), mapped, MADV_POPULATE_READ);
  MutexLock lock(mutex_);
  huge_used_ -= huge;
  const uint64_t room = IdleRoom(bytes);  // others may have taken some meanwhile
  if (keep && mapped <= room) {
    TrimIdle(room - mapped);
    if (idle_.count() == reuse_segments_) idle_.TakeOldest();
    idle_.Add(std::move(mapping));
  } else {
    mapping = SegmentMapping();
  }
  account_.Free(bytes);
  ShowBacking();
}

uint64_t HostBackedDevice::IdleRoom(uint64_t bytes) const {
  const MemoryState state = account_.state();
  return std::min(reuse_bytes_, state.capacity - state.used + bytes);
}

void HostBackedDevice::TrimIdle(uint64_t bytes) {
  while (idle_.bytes() > bytes) idle_.TakeOldest();
  ShowBacking();
}

void HostBackedDevice::ShowBacking() { account_.SetBacking(idle_.bytes(), huge_used_ + idle_.huge_bytes()); }

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
  auto* const mapped = dynamic_cast<Memory*>(&memory);
  if (mapped == nullptr || mapped->device() != this) {
    return MakeError(Reason::kInternal, absl::StrCat(info_.name, ": the memory is another device's"));
  }
  if (offset > mapped->bytes() || size > mapped->bytes() - offset) {
    return MakeError(Reason::kInternal, absl::StrCat(info_.name, ": bytes ", offset, " + ", size,
                                                     " leave a segment of ", mapped->bytes(), " bytes"));
  }
  return mapped->address() + offset;
}

}  // namespace keyload
