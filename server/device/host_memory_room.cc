#include "server/device/host_memory_room.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/byte_size.h"

namespace keyload {
namespace {

constexpr int64_t kBoundless = std::numeric_limits<int64_t>::max() / 2;

int64_t Signed(uint64_t bytes) { return static_cast<int64_t>(std::min<uint64_t>(bytes, kBoundless)); }

}  // namespace

HostMemoryRoom::HostMemoryRoom(Options options) : options_(std::move(options)) {}

void HostMemoryRoom::AddReclaimer(std::function<void(uint64_t)> reclaim) { reclaimers_.push_back(std::move(reclaim)); }

absl::StatusOr<HostMemoryRoom::Promise> HostMemoryRoom::Ask(uint64_t bytes) {
  MutexLock lock(mutex_);
  const absl::Status status = Secure(bytes, std::chrono::steady_clock::now() - measured_ > options_.max_age);
  if (!status.ok()) return status;
  slack_ -= Signed(bytes);
  promised_ += bytes;
  return Promise(this, bytes);
}

absl::Status HostMemoryRoom::Secure(uint64_t bytes, bool measure) {
  const int64_t needed = Signed(bytes);
  if (measure || needed > slack_) Measure();
  if (needed > slack_ && !reclaimers_.empty()) {
    for (const std::function<void(uint64_t)>& reclaim : reclaimers_) {
      if (needed > slack_) reclaim(static_cast<uint64_t>(needed - slack_));
      Measure();
    }
  }
  return needed > slack_ ? Refusal(bytes) : absl::OkStatus();
}

void HostMemoryRoom::Measure() {
  measured_ = std::chrono::steady_clock::now();
  begun_since_ = 0;
  margin_ = options_.margin ? options_.margin() : 0;
  slack_ = kBoundless;
  for (const MemoryBound& bound : options_.bounds()) {
    const int64_t slack = Signed(bound.free) - Signed(margin_) - Signed(promised_);
    if (slack >= slack_) continue;
    slack_ = slack;
    tightest_ = bound;
  }
}

absl::Status HostMemoryRoom::Refusal(uint64_t bytes) const {
  return absl::ResourceExhaustedError(absl::StrCat(
      tightest_.is_machine ? "the machine has " : "the control group of the daemon may use ",
      FormatByteSize(tightest_.limit), ", ", FormatByteSize(tightest_.free), " of it are free, and of these ",
      FormatByteSize(margin_), " are kept for the daemon itself and ", FormatByteSize(promised_), " for loads that run",
      bytes > 0 ? absl::StrCat("; ", FormatByteSize(bytes), " more do not fit") : ", which is more than there is",
      ". Unload models, load fewer keys or raise the limit"));
}

uint64_t HostMemoryRoom::promised() const {
  MutexLock lock(mutex_);
  return promised_;
}

HostMemoryRoom::Promise::Promise(Promise&& other) noexcept
    : room_(std::exchange(other.room_, nullptr)), left_(std::exchange(other.left_, 0)) {}

HostMemoryRoom::Promise& HostMemoryRoom::Promise::operator=(Promise&& other) noexcept {
  std::swap(room_, other.room_);
  std::swap(left_, other.left_);
  return *this;
}

HostMemoryRoom::Promise::~Promise() { Settle(); }

absl::Status HostMemoryRoom::Promise::Begin(uint64_t bytes) {
  if (room_ == nullptr) return absl::OkStatus();
  MutexLock lock(room_->mutex_);
  room_->begun_since_ += bytes;
  const uint64_t beyond = bytes - std::min(bytes, left_);
  const absl::Status status = room_->Secure(beyond, room_->begun_since_ >= kStep);
  if (!status.ok()) return status;
  left_ -= bytes - beyond;
  room_->slack_ -= Signed(beyond);
  room_->promised_ += beyond;
  return absl::OkStatus();
}

void HostMemoryRoom::Promise::End(uint64_t bytes) {
  if (room_ == nullptr) return;
  MutexLock lock(room_->mutex_);
  room_->promised_ -= bytes;
}

void HostMemoryRoom::Promise::Settle() {
  if (room_ == nullptr) return;
  MutexLock lock(room_->mutex_);
  room_->promised_ -= left_;
  room_->slack_ += Signed(left_);
  left_ = 0;
}

}  // namespace keyload
