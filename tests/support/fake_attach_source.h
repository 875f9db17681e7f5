#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/attach/attach_source.h"
#include "server/attach/sealed_memory.h"
#include "server/base/fd.h"
#include "server/base/mutex.h"

namespace keyload {

// A model in sealed memfds that a test makes up: its tensors have bytes that follow from their keys.
class FakeAttachModel {
 public:
  struct Shape {
    uint32_t segments = 3;
    uint32_t tensors = 12;
    uint64_t elements = 64;  // U8 each
    uint64_t generation = 7;
    SealedMemory::Protection protection = SealedMemory::Protection::kFinal;
  };
  // REQUIRES: memory and descriptors enough; aborts else.
  explicit FakeAttachModel(const Shape& shape);

  static std::string Key(uint32_t tensor);
  static uint8_t ByteAt(uint32_t tensor, uint64_t offset);

  const Shape& shape() const { return shape_; }
  // 0 is the table.
  std::shared_ptr<const UniqueFd> Open(uint32_t descriptor) const;
  SealedMemory& segment(uint32_t index) { return segments_[index]; }

 private:
  const Shape shape_;
  std::vector<SealedMemory> segments_;
  std::optional<SealedMemory> table_;
};

// Hands out one model by tokens that a test makes, or to whoever asks, and keeps what happened. Thread-safe.
class FakeAttachSource : public AttachSource {
 public:
  explicit FakeAttachSource(std::shared_ptr<FakeAttachModel> model) : model_(std::move(model)) {}

  AttachTokenBytes MakeToken();
  // What Acquire does instead of answering at once: the test has the request and answers it.
  struct Asked {
    AttachRequest request;
    AttachPeer peer;
    std::stop_token stop;
    Done done;
  };
  void HoldRequests() {
    Set([&] { hold_ = true; });
  }
  // Blocks until a request is held.
  Asked TakeRequest();
  absl::StatusOr<std::unique_ptr<AttachLease>> MakeLease(const AttachPeer& peer);

  // From now on descriptor `descriptor` cannot be opened.
  void BreakDescriptor(uint32_t descriptor) {
    Set([&] { broken_ = descriptor; });
  }

  size_t open_leases() const;
  size_t attached() const;
  // Blocks until there have been so many.
  void WaitForAttached(size_t count);
  std::vector<AttachEnd> WaitForEnds(size_t count);
  std::vector<absl::Status> WaitForRefusals(size_t count);
  AttachPeer last_peer() const;

  absl::StatusOr<std::unique_ptr<AttachLease>> Redeem(const AttachTokenBytes& token, const AttachPeer& peer) override;
  void Acquire(AttachRequest request, const AttachPeer& peer, std::stop_token stop, Done done) override;
  void Refused(const AttachPeer& peer, const absl::Status& why) override;

 private:
  class Lease;
  void Set(const std::function<void()>& change);
  void WaitFor(const std::function<bool()>& condition) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<FakeAttachModel> model_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool hold_ = false;
  std::optional<uint32_t> broken_;
  uint64_t tokens_made_ = 0;
  std::map<AttachTokenBytes, bool> tokens_;
  std::vector<Asked> asked_;
  uint64_t leases_made_ = 0;
  size_t open_leases_ = 0;
  size_t attached_ = 0;
  std::vector<AttachEnd> ends_;
  std::vector<absl::Status> refusals_;
  AttachPeer last_peer_;
};

// A listening socket `path` for an AttachServer. Aborts where there can be none.
UniqueFd ListenForAttach(const std::string& path);

}  // namespace keyload
