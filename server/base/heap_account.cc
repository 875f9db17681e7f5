#include "server/base/heap_account.h"

#include <algorithm>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

absl::Status NoRoom(std::string_view what, uint64_t bytes, uint64_t limit, std::string_view why) {
  return MakeError(Reason::kMemoryExhausted,
                   StrCat(what, " needs ", bytes, " bytes more: ", why,
                          "; try again when other requests have ended, ask for less at a time, or allow more"),
                   {{"requested_bytes", StrCat(bytes)}, {"limit_bytes", StrCat(limit)}});
}

}  // namespace

bool HeapAccount::Take(uint64_t bytes, uint64_t charged) {
  const uint64_t most = limit_bytes_ + (charged <= kSmallCharge ? limit_bytes_ / 4 : 0);
  for (;;) {
    uint64_t used = used_bytes_;
    while (bytes <= most && used <= most - bytes) {
      if (used_bytes_.compare_exchange_weak(used, used + bytes)) return true;
    }
    if (reclaim_ == nullptr || !reclaim_()) return false;
  }
}

absl::Status HeapCharge::Resize(uint64_t bytes, std::string_view what) {
  if (bytes > bytes_ && !account_->Take(bytes - bytes_, bytes)) {
    return NoRoom(what, bytes - bytes_, account_->limit_bytes(),
                  StrCat(account_->used_bytes(), " of the ", account_->limit_bytes(),
                         " bytes that requests may have are used (--request-memory)"));
  }
  if (bytes < bytes_) account_->Give(bytes_ - bytes);
  bytes_ = bytes;
  return absl::OkStatus();
}

absl::Status RequestHeap::Take(uint64_t bytes, std::string_view what) {
  MutexLock lock(mutex_);
  const uint64_t wanted = charge_.bytes() + std::min(bytes, UINT64_MAX - charge_.bytes());
  if (wanted > std::max(most_, HeapAccount::kSmallCharge)) {
    return NoRoom(what, bytes, most_, StrCat("one request may take ", most_, " bytes, half of --request-memory"));
  }
  return charge_.Resize(wanted, what);
}

}  // namespace keyload
