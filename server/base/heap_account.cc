#include "server/base/heap_account.h"

#include <algorithm>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

absl::Status NoRoom(std::string_view what, uint64_t bytes, uint64_t used, uint64_t limit) {
  return MakeError(
      Reason::kMemoryExhausted,
      StrCat(what, " needs ", bytes, " bytes more: requests, documents and the tables of loaded models use ", used,
             " of the ", limit,
             " bytes that they may have together (--request-memory); try again when other requests have "
             "ended, unload models, ask for less at a time, or allow more"),
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

absl::Status HeapAccount::CheckForOne(uint64_t bytes, std::string_view what) const {
  const uint64_t most = std::max(limit_bytes_ / 2, kSmallCharge);
  if (bytes <= most) return absl::OkStatus();
  return MakeError(Reason::kMemoryExhausted,
                   StrCat("with ", what, " this request takes ", bytes, " bytes; one request may have ", most,
                          ", half of --request-memory: ask for less at a time, or allow more"),
                   {{"requested_bytes", StrCat(bytes)}, {"limit_bytes", StrCat(most)}});
}

absl::Status HeapCharge::Resize(uint64_t bytes, std::string_view what) {
  if (bytes > bytes_ && !account_->Take(bytes - bytes_, bytes)) {
    return NoRoom(what, bytes - bytes_, account_->used_bytes(), account_->limit_bytes());
  }
  if (bytes < bytes_) account_->Give(bytes_ - bytes);
  bytes_ = bytes;
  return absl::OkStatus();
}

absl::Status RequestHeap::Take(uint64_t bytes, std::string_view what) {
  MutexLock lock(mutex_);
  const uint64_t wanted = charge_.bytes() + std::min(bytes, UINT64_MAX - charge_.bytes());
  KEYLOAD_RETURN_IF_ERROR(account_.CheckForOne(wanted, what));
  return charge_.Resize(wanted, what);
}

}  // namespace keyload
