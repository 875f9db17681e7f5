#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <utility>

#include "absl/status/statusor.h"
#include "attach/attach_messages.h"
#include "server/access/peer.h"
#include "server/attach/attach_source.h"
#include "server/base/fd.h"

namespace keyload {

// The protocol of docs/attach.md on one connection, without threads and waiting: it is told what happens and says what
// it waits for.
//
//   kGreeting ─┬─ HELLO ──────────────▶ kSending ◀──── NEXT ────▶ kHeld
//              └─ REQUEST ─▶ kAsking ──▶   └─ room ─▶ kAwaitingNext
//
// Any of them ends in kClosed, or in kUnread while the client has not taken descriptors out of its socket: those count
// against this process's user in the kernel until the client does, or goes, and only the connection tells when.
class AttachConnection {
 public:
  using Clock = std::chrono::steady_clock;
  enum class State { kGreeting, kAsking, kSending, kAwaitingNext, kHeld, kUnread, kClosed };

  struct Terms {
    AttachSource& source;
    const CurrentPeerRules& rules;
    // For HELLO, and from descriptors to the NEXT that acknowledges them.
    std::chrono::milliseconds acknowledge;
    // How long it may take until others have acknowledged theirs.
    std::chrono::milliseconds room;
    uint32_t most_batch;  // whatever the client asks for
  };

  // `terms` outlive it.
  AttachConnection(UniqueFd socket, PeerProcess process, const Terms& terms);
  // Ends its lease, if it has one.
  ~AttachConnection();
  AttachConnection(const AttachConnection&) = delete;

  State state() const { return state_; }
  int socket() const { return socket_.get(); }
  const AttachPeer& peer() const { return peer_; }
  // Null: it has none, or none any more.
  const AttachLease* lease() const { return lease_.get(); }
  // Descriptors that were sent and are not known to have arrived.
  uint32_t in_flight() const { return in_flight_; }
  // Until when something has to happen; Expire is to be called then.
  std::optional<Clock::time_point> deadline() const { return deadline_; }
  // Whether a note waits until the client has read others.
  bool wants_to_write() const { return state_ == State::kHeld && notes_waiting_; }

  // The socket can be read. `asked` is called for a REQUEST that may be made, with what stops it.
  template <typename Asked>
  void OnReadable(Asked&& asked) {
    if (std::optional<AttachRequest> request = Receive()) {
      state_ = State::kAsking;
      deadline_.reset();
      asked(*std::move(request), asking_.get_token());
    }
  }
  // kAsking: the source's answer. Anything else: it came too late, and the lease ends.
  void OnAnswer(absl::StatusOr<std::unique_ptr<AttachLease>> lease);
  // kSending: sends up to `room` descriptors, at least one. False: the kernel takes none now; ask again later.
  bool Send(uint32_t room);
  // How many it would send. REQUIRES: kSending.
  uint32_t wanted() const;
  // The deadline has passed.
  void Expire(Clock::time_point now);
  // The other end is gone.
  void OnGone();
  // The client takes packets again.
  void OnWritable() { SendNotes(); }
  // A complete lease is told; of several notes of one kind that wait the last counts.
  void AddNote(AttachNoteKind kind, uint64_t generation);
  // Ends the connection with an error, and the lease.
  void Refuse(AttachEnd end, const absl::Status& why);

 private:
  std::optional<AttachRequest> Receive();
  std::optional<AttachRequest> OnMessage(AttachMessage message);
  void OnLease(absl::StatusOr<std::unique_ptr<AttachLease>> lease);
  void OnNext(uint32_t descriptor);
  void ReadyToSend();
  int SendMessage(const AttachMessage& message, std::span<const int> descriptors = {});
  void SendNotes();
  void EndLease(AttachEnd end);
  void Close();
  uint32_t descriptors() const { return lease_->segments() + 1; }

  UniqueFd socket_;
  const Terms& terms_;
  AttachPeer peer_;
  State state_ = State::kGreeting;
  std::optional<Clock::time_point> deadline_;
  std::stop_source asking_;
  std::unique_ptr<AttachLease> lease_;
  uint32_t batch_ = 0;
  uint32_t acknowledged_ = 0;                     // descriptors below it have arrived
  uint32_t in_flight_ = 0;                        // those from there on that were sent
  std::array<std::optional<uint64_t>, 5> notes_;  // by kind, that wait
  bool notes_waiting_ = false;
};

}  // namespace keyload
