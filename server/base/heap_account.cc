#include "server/base/heap_account.h"

#include <algorithm>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

absl::Status NoRoom(std::string_view what, uint64_t bytes, std::string_view why) {
  return MakeError(Reason::kMemoryExhausted,
                   StrCat(what, " needs ", bytes, " bytes more: ", why,
                          "; try again when other requests have ended, ask for less at a time, or allow more"),
                   {{"requested_bytes", StrCat(bytes)}});
}

}  // namespace

bool HeapAccount::Take(uint64_t bytes) {
  for (;;) {
    uint64_t used = used_bytes_;
    while (bytes <= limit_bytes_ && used <= limit_bytes_ - bytes) {
      if (used_bytes_.compare_exchange_weak(used, used + bytes)) return true;
    }
    if (reclaim_ == nullptr || !reclaim_()) return false;
  }
}

absl::Status HeapCharge::Resize(uint64_t bytes, std::string_view what) {
  if (bytes > bytes_ && !account_->Take(bytes - bytes_)) {
    return NoRoom(what, bytes - bytes_,
                  StrCat(account_->used_bytes(), " of the ", account_->limit_bytes(),
                         " bytes that requests may have are used (--request-memory)"));
  }
  if (bytes < bytes_) account_->Give(bytes_ - bytes);
  bytes_ = bytes;
  return absl::OkStatus();
}

absl::Status RequestHeap::Take(uint64_t bytes, std::string_view what) {
  MutexLock lock(mutex_);
  const uint64_t wanted = taken_ + std::min(bytes, UINT64_MAX - taken_);
  const uint64_t counted = wanted - std::min(wanted, kUncounted);
  if (counted > most_) {
    return NoRoom(what, bytes, StrCat("one request may take ", most_, " bytes, half of --request-memory"));
  }
  if (absl::Status status = charge_.Resize(counted, what); !status.ok()) return status;
  taken_ = wanted;
  return absl::OkStatus();
}

}  // namespace keyload
