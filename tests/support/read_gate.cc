#include "tests/support/read_gate.h"

#include <utility>

namespace keyload {

class ReadGate::Reader : public ShardReader {
 public:
  Reader(ReadGate& gate, std::unique_ptr<ShardReader> reader) : gate_(gate), reader_(std::move(reader)) {}
  absl::Status ReadVector(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) override {
    gate_.Pass(BytesOf(buffers));
    return reader_->ReadVector(offset, buffers, counts);
  }
  absl::StatusOr<bool> ReadCached(uint64_t offset, std::span<const iovec> buffers, ReadCounts& counts) override {
    const absl::StatusOr<bool> cached = reader_->ReadCached(offset, buffers, counts);
    if (cached.ok() && *cached) gate_.Pass(BytesOf(buffers));
    return cached;
  }
  bool ReadDirect(uint64_t offset, std::span<const iovec> buffers, uint64_t needed, ReadCounts& counts) override {
    const bool done = reader_->ReadDirect(offset, buffers, needed, counts);
    if (done) gate_.Pass(needed);
    return done;
  }
  void WillNeed(uint64_t offset, uint64_t length) override { reader_->WillNeed(offset, length); }
  absl::Status Populate(uint64_t offset, uint64_t length, ReadCounts& counts) override {
    gate_.Pass(length);
    return reader_->Populate(offset, length, counts);
  }

 private:
  static uint64_t BytesOf(std::span<const iovec> buffers) {
    uint64_t bytes = 0;
    for (const iovec& buffer : buffers) bytes += buffer.iov_len;
    return bytes;
  }

  ReadGate& gate_;
  const std::unique_ptr<ShardReader> reader_;
};

std::unique_ptr<ShardReader> ReadGate::Guard(std::unique_ptr<ShardReader> reader) {
  return std::make_unique<Reader>(*this, std::move(reader));
}

void ReadGate::Hold() {
  MutexLock lock(mutex_);
  held_ = true;
}

void ReadGate::Release() {
  MutexLock lock(mutex_);
  held_ = false;
  changed_.NotifyAll();
}

void ReadGate::WaitForCalls(uint64_t count) {
  MutexLock lock(mutex_);
  while (calls_ < count) changed_.Wait(mutex_);
}

uint64_t ReadGate::calls() const {
  MutexLock lock(mutex_);
  return calls_;
}

uint64_t ReadGate::bytes() const {
  MutexLock lock(mutex_);
  return bytes_;
}

void ReadGate::Pass(uint64_t bytes) {
  MutexLock lock(mutex_);
  ++calls_;
  bytes_ += bytes;
  changed_.NotifyAll();
  while (held_) changed_.Wait(mutex_);
}

}  // namespace keyload
