#include "tests/support/fake_device.h"

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/error.h"

namespace keyload {

class FakeDevice::Memory : public DeviceMemory {
 public:
  Memory(FakeDevice& device, uint64_t bytes, Contents contents)
      : device_(device), storage_(bytes, contents == Contents::kZeroed ? std::byte{0} : kPoison) {}
  ~Memory() override {
    device_.account_.Free(storage_.size());
    MutexLock lock(device_.mutex_);
    --device_.live_allocations_;
  }
  uint64_t bytes() const override { return storage_.size(); }
  std::span<std::byte> host() override {
    return device_.options_.host_visible ? std::span<std::byte>(storage_) : std::span<std::byte>();
  }
  FakeDevice& device() const { return device_; }
  std::byte* data() { return storage_.data(); }

 private:
  FakeDevice& device_;
  std::vector<std::byte> storage_;
};

FakeDevice::FakeDevice(Options options)
    : options_(std::move(options)),
      info_{.name = options_.name, .uuid = "GPU-fa4ede1c-" + options_.name, .model = "Fake device", .simulated = true},
      account_(options_.name, options_.capacity_bytes),
      thread_([this] { Work(); }) {}

FakeDevice::~FakeDevice() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void FakeDevice::HoldCopies() {
  MutexLock lock(mutex_);
  held_ = true;
}

void FakeDevice::ReleaseCopies() {
  {
    MutexLock lock(mutex_);
    held_ = false;
  }
  changed_.NotifyAll();
}

void FakeDevice::WaitForCopiesStarted(uint64_t count) {
  MutexLock lock(mutex_);
  while (copies_started_ < count) changed_.Wait(mutex_);
}

uint64_t FakeDevice::allocations() const {
  MutexLock lock(mutex_);
  return allocations_;
}

uint64_t FakeDevice::live_allocations() const {
  MutexLock lock(mutex_);
  return live_allocations_;
}

uint64_t FakeDevice::copies_started() const {
  MutexLock lock(mutex_);
  return copies_started_;
}

uint64_t FakeDevice::copies_finished() const {
  MutexLock lock(mutex_);
  return copies_finished_;
}

absl::StatusOr<std::unique_ptr<DeviceMemory>> FakeDevice::Allocate(MemoryReservation& reservation, uint64_t bytes,
                                                                   Contents contents) {
  bool refused = false;
  {
    MutexLock lock(mutex_);
    refused = ++allocation_calls_ == options_.fail_allocation;
  }
  if (refused || !account_.Commit(reservation, bytes)) {
    const MemoryState state = account_.state();
    return MakeError(Reason::kDeviceOutOfMemory, absl::StrCat(info_.name, ": allocation of ", bytes, " bytes refused"),
                     {{"device", info_.name},
                      {"requested_bytes", absl::StrCat(bytes)},
                      {"free_bytes", absl::StrCat(state.free())},
                      {"capacity_bytes", absl::StrCat(state.capacity)}});
  }
  auto memory = std::make_unique<Memory>(*this, bytes, contents);
  MutexLock lock(mutex_);
  ++allocations_;
  ++live_allocations_;
  return memory;
}

void FakeDevice::CopyAsync(DeviceMemory& memory, uint64_t offset, std::span<const std::byte> source,
                           absl::AnyInvocable<void(absl::Status)> done) {
  absl::StatusOr<std::byte*> destination = Locate(memory, offset, source.size());
  Copy copy = {.refused = destination.status(), .destination = nullptr, .source = source, .done = std::move(done)};
  if (destination.ok()) {
    copy.destination = *destination;
    std::fill_n(copy.destination, source.size(), kPoison);
  }
  {
    MutexLock lock(mutex_);
    if (copies_started_ + 1 == options_.throw_copy) {
      ++copies_started_;
      throw std::bad_alloc();
    }
    if (++copies_started_ == options_.fail_copy) {
      copy.refused =
          MakeError(Reason::kInternal, absl::StrCat(info_.name, ": copy ", copies_started_, " fails on demand"));
    }
    queue_.push_back(std::move(copy));
  }
  changed_.NotifyAll();
}

absl::Status FakeDevice::Read(DeviceMemory& memory, uint64_t offset, std::span<std::byte> destination) {
  KEYLOAD_ASSIGN_OR_RETURN(const std::byte* source, Locate(memory, offset, destination.size()));
  std::copy_n(source, destination.size(), destination.data());
  return absl::OkStatus();
}

void FakeDevice::Work() {
  while (true) {
    Copy copy;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && (queue_.empty() || held_)) changed_.Wait(mutex_);
      if (queue_.empty()) return;
      copy = std::move(queue_.front());
      queue_.pop_front();
    }
    if (copy.refused.ok()) std::copy_n(copy.source.data(), copy.source.size(), copy.destination);
    copy.done(std::move(copy.refused));
    MutexLock lock(mutex_);
    ++copies_finished_;
  }
}

absl::StatusOr<std::byte*> FakeDevice::Locate(DeviceMemory& memory, uint64_t offset, uint64_t size) {
  auto* const own = dynamic_cast<Memory*>(&memory);
  if (own == nullptr || &own->device() != this) {
    return MakeError(Reason::kInternal, absl::StrCat(info_.name, ": the memory is another device's"));
  }
  if (offset > own->bytes() || size > own->bytes() - offset) {
    return MakeError(Reason::kInternal, absl::StrCat(info_.name, ": bytes ", offset, " + ", size,
                                                     " leave a segment of ", own->bytes(), " bytes"));
  }
  return own->data() + offset;
}

}  // namespace keyload
