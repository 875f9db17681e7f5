#include "tests/support/fake_attach_source.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_format.h"
#include "server/attach/attach_table_builder.h"
#include "server/base/error.h"
#include "server/base/rounding.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr uint64_t kPage = 4096;

void Require(bool holds, const char* what) {
  if (holds) return;
  std::perror(what);
  std::abort();
}

}  // namespace

FakeAttachModel::FakeAttachModel(const Shape& shape) : shape_(shape) {
  const uint32_t each = shape.segments == 0 ? 0 : (shape.tensors + shape.segments - 1) / shape.segments;
  const uint64_t stride = RoundUp(shape.elements, 64);
  std::vector<AttachSegmentRow> segment_rows;
  for (uint32_t s = 0; s < shape.segments; ++s) {
    std::vector<uint8_t> bytes(RoundUp(std::max<uint64_t>(each * stride, 1), kPage));
    for (uint32_t t = s * each; t < std::min(shape.tensors, (s + 1) * each); ++t) {
      for (uint64_t i = 0; i < shape.elements; ++i) bytes[(t - s * each) * stride + i] = ByteAt(t, i);
    }
    UniqueFd memfd(memfd_create("keyload-test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    Require(write(memfd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()), "memfd");
    absl::StatusOr<SealedMemory> sealed = SealedMemory::Seal(std::move(memfd), shape.protection);
    Require(sealed.ok(), "seal");
    segments_.push_back(*std::move(sealed));
    segment_rows.push_back(
        {.kind = AttachSegmentKind::kMemfd, .bytes = bytes.size(), .page = kPage, .incarnation = 1, .device = "cpu"});
  }
  std::vector<std::string> keys;
  for (uint32_t t = 0; t < shape.tensors; ++t) keys.push_back(Key(t));
  std::vector<AttachTableRow> rows;
  for (uint32_t t = 0; t < shape.tensors; ++t) {
    rows.push_back({.key = keys[t],
                    .dtype = {.name = "U8", .bits = 8, .alignment = 1},
                    .shape = {&shape_.elements, 1},
                    .segment = each == 0 ? kNoAttachSegment : t / each,
                    .offset = each == 0 ? 0 : t % each * stride,
                    .bytes = shape.elements,
                    .state = each == 0 ? uint8_t{2} : kAttachStateResident});
  }
  absl::StatusOr<SealedMemory> table = BuildAttachTable(shape.generation, rows, segment_rows, {});
  if (!table.ok()) std::fprintf(stderr, "%s\n", std::string(table.status().message()).c_str());
  Require(table.ok(), "table");
  table_ = *std::move(table);
}

std::string FakeAttachModel::Key(uint32_t tensor) { return absl::StrFormat("layers.%d.weight", tensor); }
uint8_t FakeAttachModel::ByteAt(uint32_t tensor, uint64_t offset) {
  return static_cast<uint8_t>(tensor * 31 + offset * 7 + 3);
}

std::shared_ptr<const UniqueFd> FakeAttachModel::Open(uint32_t descriptor) const {
  return descriptor == 0 ? table_->shared() : segments_[descriptor - 1].shared();
}

class FakeAttachSource::Lease : public AttachLease {
 public:
  Lease(FakeAttachSource& source, uint64_t number)
      : source_(source), model_(source.model_), name_(absl::StrFormat("lease-%06d", number)) {}

  std::string_view name() const override { return name_; }
  uint64_t generation() const override { return model_->shape().generation; }
  uint32_t segments() const override { return model_->shape().segments; }
  absl::StatusOr<std::shared_ptr<const UniqueFd>> Open(uint32_t descriptor) override {
    MutexLock lock(source_.mutex_);
    if (source_.broken_ == descriptor) return MakeError(Reason::kIoError, "the test broke this descriptor");
    return model_->Open(descriptor);
  }
  void Attached() override {
    source_.Set([&] { ++source_.attached_; });
  }
  void Ended(AttachEnd end) override {
    source_.Set([&] {
      source_.ends_.push_back(end);
      --source_.open_leases_;
    });
  }

 private:
  FakeAttachSource& source_;
  const std::shared_ptr<FakeAttachModel> model_;
  const std::string name_;
};

void FakeAttachSource::Set(const std::function<void()>& change) {
  MutexLock lock(mutex_);
  change();
  changed_.NotifyAll();
}

void FakeAttachSource::WaitFor(const std::function<bool()>& condition) {
  while (!condition()) changed_.Wait(mutex_);
}

AttachTokenBytes FakeAttachSource::MakeToken() {
  MutexLock lock(mutex_);
  AttachTokenBytes token = {};
  const uint64_t number = ++tokens_made_;
  std::memcpy(token.data(), &number, sizeof(number));
  tokens_[token] = true;
  return token;
}

FakeAttachSource::Asked FakeAttachSource::TakeRequest() {
  MutexLock lock(mutex_);
  WaitFor([&] { return !asked_.empty(); });
  Asked asked = std::move(asked_.back());
  asked_.pop_back();
  return asked;
}

absl::StatusOr<std::unique_ptr<AttachLease>> FakeAttachSource::MakeLease(const AttachPeer& peer) {
  MutexLock lock(mutex_);
  ++open_leases_;
  last_peer_ = peer;
  return std::make_unique<Lease>(*this, ++leases_made_);
}

size_t FakeAttachSource::open_leases() const {
  MutexLock lock(mutex_);
  return open_leases_;
}

size_t FakeAttachSource::attached() const {
  MutexLock lock(mutex_);
  return attached_;
}

void FakeAttachSource::WaitForAttached(size_t count) {
  MutexLock lock(mutex_);
  WaitFor([&] { return attached_ >= count; });
}

std::vector<AttachEnd> FakeAttachSource::WaitForEnds(size_t count) {
  MutexLock lock(mutex_);
  WaitFor([&] { return ends_.size() >= count; });
  return ends_;
}

std::vector<absl::Status> FakeAttachSource::WaitForRefusals(size_t count) {
  MutexLock lock(mutex_);
  WaitFor([&] { return refusals_.size() >= count; });
  return refusals_;
}

AttachPeer FakeAttachSource::last_peer() const {
  MutexLock lock(mutex_);
  return last_peer_;
}

absl::StatusOr<std::unique_ptr<AttachLease>> FakeAttachSource::Redeem(const AttachTokenBytes& token,
                                                                      const AttachPeer& peer) {
  bool good = false;
  Set([&] {
    const auto found = tokens_.find(token);
    good = found != tokens_.end() && std::exchange(found->second, false);
  });
  if (!good) return MakeError(Reason::kTokenInvalid, "this token is none, or was used before: ask for a lease again");
  return MakeLease(peer);
}

void FakeAttachSource::Acquire(AttachRequest request, const AttachPeer& peer, std::stop_token stop, Done done) {
  bool hold = false;
  Set([&] {
    hold = hold_;
    if (hold)
      asked_.push_back({.request = std::move(request), .peer = peer, .stop = std::move(stop), .done = std::move(done)});
  });
  if (!hold) done(MakeLease(peer));
}

void FakeAttachSource::Refused(const AttachPeer& peer, const absl::Status& why) {
  Set([&] {
    refusals_.push_back(why);
    last_peer_ = peer;
  });
}

UniqueFd ListenForAttach(const std::string& path) {
  sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = {}};
  Require(path.size() < sizeof(name.sun_path), "path");
  std::copy(path.begin(), path.end(), name.sun_path);
  UniqueFd listening(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  unlink(path.c_str());
  Require(bind(listening.get(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0 &&
              chmod(path.c_str(), 0666) == 0 && listen(listening.get(), SOMAXCONN) == 0,
          "listen");
  return listening;
}

}  // namespace keyload
