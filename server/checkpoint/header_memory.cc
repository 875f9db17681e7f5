#include "server/checkpoint/header_memory.h"

#include <string>

#include "server/base/byte_size.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/header_cache.h"

namespace keyload {

bool HeaderMemory::Take(uint64_t bytes) {
  uint64_t used = used_;
  do {
    if (used > limit_ || bytes > limit_ - used) return false;
  } while (!used_.compare_exchange_weak(used, used + bytes));
  return true;
}

HeaderCharge::~HeaderCharge() {
  if (memory_ != nullptr) memory_->Give(bytes_);
}

absl::Status HeaderCharge::Add(uint64_t bytes, std::string_view file) {
  if (memory_ == nullptr) return absl::OkStatus();
  const auto refused = [&](std::string_view problem, uint64_t limit) {
    return MakeError(Reason::kMemoryExhausted,
                     StrCat(file, ": reading its header or index takes ", FormatByteSize(bytes), " of memory, and ",
                            problem, " (--header-memory is ", FormatByteSize(memory_->limit()), ")"),
                     {{"file", std::string(file)},
                      {"requested_bytes", std::to_string(bytes)},
                      {"limit_bytes", std::to_string(limit)}});
  };
  const uint64_t before = bytes_.fetch_add(bytes);
  if (before + bytes > memory_->limit_per_open()) {
    bytes_ -= bytes;
    return refused(StrCat("one checkpoint may take ", FormatByteSize(memory_->limit_per_open()), " together"),
                   memory_->limit_per_open());
  }
  if (memory_->Take(bytes)) return absl::OkStatus();
  if (cache_ != nullptr && cache_->MakeRoom(bytes) && memory_->Take(bytes)) return absl::OkStatus();
  bytes_ -= bytes;
  return refused("other checkpoints take the rest of what is allowed", memory_->limit());
}

void HeaderCharge::Remove(uint64_t bytes) {
  if (memory_ == nullptr) return;
  bytes_ -= bytes;
  memory_->Give(bytes);
}

void HeaderCharge::Settle(uint64_t bytes) {
  if (memory_ == nullptr) return;
  memory_->used_ += bytes;
  memory_->Give(bytes_.exchange(bytes));
}

absl::Status TemporaryCharge::Add(uint64_t bytes, std::string_view file) {
  if (charge_ == nullptr) return absl::OkStatus();
  KEYLOAD_RETURN_IF_ERROR(charge_->Add(bytes, file));
  bytes_ += bytes;
  return absl::OkStatus();
}

absl::Status SteppedCharge::Add(uint64_t bytes, std::string_view file) {
  constexpr uint64_t kStepBytes = 64 << 10;
  if (charge_ == nullptr) return absl::OkStatus();
  if (room_ < bytes) {
    const uint64_t step = std::max(bytes, kStepBytes);
    KEYLOAD_RETURN_IF_ERROR(charge_->Add(step, file));
    room_ += step;
  }
  room_ -= bytes;
  return absl::OkStatus();
}

absl::Status NoHeapFor(std::string_view file) {
  return MakeError(Reason::kMemoryExhausted, StrCat(file, ": the system gave no memory to read its header or index"),
                   {{"file", std::string(file)}});
}

}  // namespace keyload
