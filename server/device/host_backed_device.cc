#include "server/device/host_backed_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "server/base/byte_size.h"
#include "server/base/error.h"
#include "server/base/no_throw.h"

namespace keyload {
namespace {

constexpr uint64_t kLeastKept = 1ull << 20;
// Bytes on their way count both as promised and, as far as they are there, as used: so few are at a time.
constexpr size_t kWriteBytes = 512 << 10;

}  // namespace

class HostBackedDevice::Memory : public DeviceMemory {
 public:
  // Owns `backed` and the `bytes` that the device has charged for it.
  Memory(HostBackedDevice& device, Backed backed, uint64_t bytes)
      : device_(device), backed_(std::move(backed)), bytes_(bytes) {}
  ~Memory() override {
    backed_.promise.Settle();
    device_.Release(std::move(backed_.mapping), bytes_);
  }

  uint64_t bytes() const override { return bytes_; }
  std::span<std::byte> host() override {
    return device_.backing_ == Backing::kMemfd ? std::span<std::byte>(address(), bytes_) : std::span<std::byte>();
  }
  bool is_fresh() const override { return backed_.fresh; }
  absl::Status Write(uint64_t offset, std::span<const std::byte> bytes) override {
    if (!is_fresh()) return DeviceMemory::Write(offset, bytes);
    for (; !bytes.empty(); bytes = bytes.subspan(std::min(bytes.size(), kWriteBytes)), offset += kWriteBytes) {
      const std::span<const std::byte> part = bytes.first(std::min(bytes.size(), kWriteBytes));
      KEYLOAD_RETURN_IF_ERROR(BeginFilling(part.size()));
      const absl::Cleanup end = [&] { EndFilling(part.size()); };
      const absl::Status status = backed_.mapping.Write(offset, part);
      if (!status.ok()) return device_.OutOfMemory(part.size(), status.message());
    }
    return absl::OkStatus();
  }
  void Settle() override { backed_.promise.Settle(); }

  // Around whatever makes pages of it.
  absl::Status BeginFilling(uint64_t bytes) {
    const absl::Status status = backed_.promise.Begin(bytes);
    return status.ok() ? status : device_.OutOfMemory(bytes, status.message());
  }
  void EndFilling(uint64_t bytes) { backed_.promise.End(bytes); }
  std::byte* address() const { return backed_.mapping.address(); }
  const HostBackedDevice* device() const { return &device_; }

 private:
  HostBackedDevice& device_;
  Backed backed_;
  const uint64_t bytes_;
};

HostBackedDevice::HostBackedDevice(const Options& options)
    : info_(options.info),
      backing_(options.backing),
      reuse_bytes_(options.reuse_bytes),
      reuse_segments_(options.reuse_segments),
      huge_pages_(options.huge_pages),
      room_(options.room),
      account_(options.info.name, options.capacity_bytes),
      copies_(absl::StrCat("copy-", options.info.name), options.copy_bytes_per_second) {
  if (room_ == nullptr) return;
  room_->AddReclaimer([this](uint64_t bytes) {
    MutexLock lock(mutex_);
    TrimIdle(idle_.bytes() - std::min(idle_.bytes(), bytes));
  });
}

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
  absl::Cleanup uncommit = [&] { account_.Uncommit(reservation, bytes); };
  absl::StatusOr<Backed> backed = Map(bytes, contents, std::move(idle));
  if (!backed.ok()) return OutOfMemory(bytes, backed.status().message());
  const uint64_t huge = backed->mapping.huge() ? backed->mapping.bytes() : 0;
  auto memory = std::make_unique<Memory>(*this, *std::move(backed), bytes);
  std::move(uncommit).Cancel();  // its end frees the bytes
  MutexLock lock(mutex_);
  huge_used_ += huge;
  ShowBacking();
  return memory;
}

absl::StatusOr<HostBackedDevice::Backed> HostBackedDevice::Map(uint64_t bytes, Contents contents,
                                                               std::optional<SegmentMapping> idle) {
  if (!idle.has_value() || !FillHoles(*idle).ok()) {
    idle.reset();
    return MapNew(bytes);
  }
  // What lies behind the last byte is seen by those that a memfd is shared with.
  const uint64_t kept = contents == Contents::kZeroed ? 0 : bytes;
  std::memset(idle->address() + kept, 0, idle->bytes() - kept);
  return Backed{.mapping = *std::move(idle), .promise = {}, .fresh = false};
}

// Memory that was extended has no pages at its end, and filling it by touching it would ask nobody.
absl::Status HostBackedDevice::FillHoles(SegmentMapping& mapping) {
  const uint64_t missing = mapping.missing_bytes();
  if (missing == 0) return absl::OkStatus();
  KEYLOAD_ASSIGN_OR_RETURN(HostMemoryRoom::Promise promise, AskForRoom(missing));
  KEYLOAD_RETURN_IF_ERROR(promise.Begin(missing));
  const absl::Cleanup end = [&] { promise.End(missing); };
  return mapping.Populate();
}

absl::StatusOr<HostMemoryRoom::Promise> HostBackedDevice::AskForRoom(uint64_t bytes) {
  if (room_ == nullptr) return HostMemoryRoom::Promise();
  return room_->Ask(bytes);
}

absl::StatusOr<HostBackedDevice::Backed> HostBackedDevice::MapNew(uint64_t bytes) {
  if (huge_pages_ != HugePages::kNever && bytes > 0) {
    absl::StatusOr<SegmentMapping> huge = huge_pages_ == HugePages::kTry
                                              ? SegmentMapping::HugeMemfd(bytes, /*most_waste=*/bytes / 4)
                                              : MapOrTrimIdle([&] { return SegmentMapping::HugeMemfd(bytes); });
    if (huge.ok()) return Backed{.mapping = *std::move(huge), .promise = {}, .fresh = false};
    if (huge_pages_ == HugePages::kRequire) return huge.status();
  }
  KEYLOAD_ASSIGN_OR_RETURN(HostMemoryRoom::Promise promise, AskForRoom(bytes));
  if (backing_ == Backing::kAnonymous) {
    KEYLOAD_ASSIGN_OR_RETURN(SegmentMapping mapping, SegmentMapping::Anonymous(bytes));
    return Backed{.mapping = std::move(mapping), .promise = std::move(promise), .fresh = false};
  }
  KEYLOAD_ASSIGN_OR_RETURN(SegmentMapping mapping, MapOrTrimIdle([&] { return SegmentMapping::Memfd(bytes); }));
  return Backed{.mapping = std::move(mapping), .promise = std::move(promise), .fresh = bytes > 0};
}

absl::StatusOr<SegmentMapping> HostBackedDevice::MapOrTrimIdle(
    absl::FunctionRef<absl::StatusOr<SegmentMapping>()> map) {
  absl::StatusOr<SegmentMapping> mapping = map();
  if (mapping.ok()) return mapping;
  {
    MutexLock lock(mutex_);
    if (idle_.empty()) return mapping;
    TrimIdle(0);  // idle memory holds descriptors, address space and huge pages too
  }
  return map();
}

void HostBackedDevice::Release(SegmentMapping mapping, uint64_t bytes) {
  const uint64_t mapped = mapping.bytes();
  const uint64_t huge = mapping.huge() ? mapped : 0;
  // A segment with holes, as lazy keys and cancelled loads leave, would only get its pages here. A small one is not
  // worth the descriptor.
  const bool keep =
      mapped >= kLeastKept && mapped <= IdleRoom(bytes) && reuse_segments_ > 0 && mapping.missing_bytes() == 0;
  if (!keep) mapping = SegmentMapping();
  // What was written by descriptor has pages, but not in this process: the next user should not meet them one by one.
  if (keep) ::madvise(mapping.address(), mapped, MADV_POPULATE_READ);
  MutexLock lock(mutex_);
  huge_used_ -= huge;
  const uint64_t room = IdleRoom(bytes);  // others may have taken some meanwhile
  if (keep && mapped <= room) {
    TrimIdle(room - mapped);
    if (idle_.count() == reuse_segments_) idle_.TakeOldest();
    NoThrow([&] { idle_.Add(std::move(mapping)); }).IgnoreError();  // else it is freed too
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
  absl::Status refused = destination.status();
  Memory* filled = nullptr;
  if (refused.ok() && room_ != nullptr) {
    filled = static_cast<Memory*>(&memory);  // Locate has seen that it is
    refused = filled->BeginFilling(source.size());
    if (!refused.ok()) filled = nullptr;
  }
  absl::Cleanup not_started = [&] {
    if (filled != nullptr) filled->EndFilling(source.size());
  };
  if (filled != nullptr) {
    done = [filled, bytes = source.size(), done = std::move(done)](absl::Status status) mutable {
      filled->EndFilling(bytes);  // before `done`, after which the memory may go
      done(std::move(status));
    };
  }
  copies_.Submit({.refused = std::move(refused),
                  .destination = destination.ok() ? *destination : nullptr,
                  .source = source,
                  .done = std::move(done)});
  std::move(not_started).Cancel();
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
