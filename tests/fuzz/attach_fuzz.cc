#include "tests/fuzz/attach_fuzz.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "attach/attach_messages.h"
#include "attach/attach_socket.h"
#include "attach/attach_table.h"
#include "keyload/attach_session.h"
#include "server/attach/attach_connection.h"
#include "server/attach/sealed_memory.h"
#include "server/base/error.h"

namespace keyload {
namespace {

constexpr uint32_t kSegments = 3;

void Require(bool condition) {
  if (!condition) std::abort();
}

// Reads every byte that a row of a table says it has.
void CheckTable(const AttachTable& table) {
  std::string_view before;
  for (uint32_t i = 0; i < table.rows(); ++i) {
    const AttachRow row = table.row(i);
    Require(!row.key.empty() && before < row.key);
    Require(table.Find(row.key) == i);
    before = row.key;
    if (row.segment == kNoAttachSegment) continue;
    Require(row.segment < table.segments());
    const AttachSegmentRow segment = table.segment(row.segment);
    Require(row.offset <= segment.bytes && row.bytes <= segment.bytes - row.offset);
    uint64_t elements = 1;
    for (const uint64_t dim : row.shape) elements *= dim;
    Require(elements * row.dtype_bits == row.bytes * 8);
  }
}

// Takes steps off a script: u16, whose highest bit is the flag and whose rest is a length, and so many bytes.
class Script {
 public:
  explicit Script(std::string_view bytes) : left_(bytes) {}
  struct Step {
    bool flag = false;
    std::string_view bytes;
  };
  std::optional<Step> Next() {
    uint16_t head = 0;
    if (left_.size() < sizeof(head)) return std::nullopt;
    std::memcpy(&head, left_.data(), sizeof(head));
    left_.remove_prefix(sizeof(head));
    const Step step = {.flag = (head & 0x8000) != 0, .bytes = left_.substr(0, head & 0x7fffu)};
    left_.remove_prefix(step.bytes.size());
    return step;
  }

 private:
  std::string_view left_;
};

class Pair {
 public:
  Pair() {
    int ends[2];
    Require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    first = UniqueFd(ends[0]);
    second = UniqueFd(ends[1]);
  }
  UniqueFd first;
  UniqueFd second;
};

// Refuses every second time, and counts.
class CountingSource : public AttachSource {
 public:
  absl::StatusOr<std::unique_ptr<AttachLease>> Redeem(const AttachTokenBytes& token, const AttachPeer&) override {
    if (token[0] % 2 == 1) return MakeError(Reason::kTokenInvalid, "no");
    ++open;
    return std::make_unique<Lease>(*this);
  }
  void Acquire(AttachRequest, const AttachPeer&, std::stop_token, Done) override { std::abort(); }
  void Refused(const AttachPeer&, const absl::Status& why) override { Require(!why.ok()); }

  int open = 0;

 private:
  class Lease : public AttachLease {
   public:
    explicit Lease(CountingSource& source) : source_(source) {}
    std::string_view name() const override { return "lease"; }
    uint64_t generation() const override { return 1; }
    uint32_t segments() const override { return kSegments; }
    absl::StatusOr<std::shared_ptr<const UniqueFd>> Open(uint32_t descriptor) override {
      Require(descriptor <= kSegments && !ended_);
      return std::make_shared<const UniqueFd>(dup(STDERR_FILENO));
    }
    void Attached() override { Require(!ended_ && !std::exchange(attached_, true)); }
    void Ended(AttachEnd) override {
      Require(!std::exchange(ended_, true));
      --source_.open;
    }

   private:
    CountingSource& source_;
    bool ended_ = false;
    bool attached_ = false;
  };
};

UniqueFd SealedFile(std::string_view bytes) {
  UniqueFd memfd(memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  Require(write(memfd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  absl::StatusOr<SealedMemory> sealed = SealedMemory::Seal(std::move(memfd), SealedMemory::Protection::kFinal);
  Require(sealed.ok());
  return UniqueFd(dup(sealed->shared()->get()));
}

}  // namespace

void FuzzAttachMessage(std::string_view packet) {
  const absl::StatusOr<AttachMessage> message = DecodeAttachMessage(packet);
  if (!message.ok()) return;
  const absl::StatusOr<std::string> again = EncodeAttachMessage(*message);
  Require(again.ok() && *again == packet);
}

void FuzzAttachTable(std::string_view bytes) {
  // Of its own size and aligned, so that a sanitizer sees whatever leads out of it.
  const auto memory = std::make_unique<uint64_t[]>((bytes.size() + 7) / 8);
  std::memcpy(memory.get(), bytes.data(), bytes.size());
  const auto table = AttachTable::Parse({reinterpret_cast<const std::byte*>(memory.get()), bytes.size()});
  if (table.ok()) CheckTable(*table);
}

void FuzzAttachServer(std::string_view script_bytes) {
  using State = AttachConnection::State;
  Pair ends;
  CountingSource source;
  const CurrentPeerRules rules{PeerRules()};
  const AttachConnection::Terms terms = {.source = source,
                                         .rules = rules,
                                         .acknowledge = std::chrono::seconds(2),
                                         .room = std::chrono::seconds(2),
                                         .most_batch = 2};
  {
    AttachConnection connection(std::move(ends.first), PeerProcess(), terms);
    Script script(script_bytes);
    while (const auto step = script.Next()) {
      if (connection.state() == State::kClosed || connection.state() == State::kUnread) break;
      if (!step->bytes.empty()) SendAttachPacket(ends.second.get(), step->bytes, {});
      std::optional<AttachRequest> asked;
      connection.OnReadable([&](AttachRequest request, std::stop_token) { asked = std::move(request); });
      Require(asked.has_value() == (connection.state() == State::kAsking) || !asked.has_value());
      if (asked) {
        AttachTokenBytes token = {};
        token[0] = step->flag ? 1 : 0;
        connection.OnAnswer(source.Redeem(token, connection.peer()));
      }
      if (connection.state() == State::kSending) Require(connection.Send(2));
      Require(connection.in_flight() <= 2);
      Require((connection.lease() != nullptr) == (source.open == 1));
      if (step->flag) {  // reads what came
        AttachPacket packet;
        while (ReceiveAttachPacket(ends.second.get(), kMostAttachBatch, packet) == 0 && !packet.bytes.empty())
          Require(DecodeAttachMessage(packet.bytes).ok());
      }
    }
  }
  Require(source.open == 0);
}

void FuzzAttachClient(std::string_view script_bytes) {
  Pair ends;
  Script script(script_bytes);
  // A step with the flag is a file to be sent along with the next one.
  std::optional<UniqueFd> file;
  while (const auto step = script.Next()) {
    if (step->flag) {
      file = SealedFile(step->bytes);
      continue;
    }
    if (step->bytes.empty()) continue;
    const int descriptor = file ? file->get() : -1;
    SendAttachPacket(ends.second.get(), step->bytes, {&descriptor, file ? 1u : 0u});
    file.reset();
  }
  ends.second = UniqueFd();
  const absl::StatusOr<AttachedModel> model =
      AttachSession(absl::Seconds(10)).RunOn(std::move(ends.first), AttachRelease());
  if (!model.ok()) return;
  for (size_t i = 0; i < model->size(); ++i) {
    const AttachedTensor tensor = (*model)[i];
    Require(model->Find(tensor.key).has_value());
    uint8_t sum = 0;
    for (const std::byte byte : tensor.bytes) sum = static_cast<uint8_t>(sum + static_cast<uint8_t>(byte));
    Require(tensor.resident || sum == 0);
  }
}

}  // namespace keyload
