#include "server/attach/attach_connection.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "attach/attach_socket.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/base/utf8.h"

namespace keyload {
namespace {

// How often a client that was given up is looked at, to see whether it has taken what was sent.
constexpr std::chrono::milliseconds kUnreadCheck(250);

absl::Status Unexpected(const char* what) { return MakeError(Reason::kBadRequest, what); }

absl::Status NotAllowed() {
  return MakeError(
      Reason::kPeerNotAllowed,
      "this process runs as none of the users and groups that may call; ask for a lease with a token, or run "
      "it as one of them");
}

// Whether the other end has not yet received all that was sent.
bool HasUnread(int socket) {
  int bytes = 0;
  return ioctl(socket, SIOCOUTQ, &bytes) == 0 && bytes > 0;
}

}  // namespace

std::string_view AttachEndName(AttachEnd end) {
  switch (end) {
    case AttachEnd::kReleased:
      return "released";
    case AttachEnd::kClosed:
      return "closed";
    case AttachEnd::kNotAcknowledged:
      return "not acknowledged";
    case AttachEnd::kProtocolError:
      return "protocol error";
    case AttachEnd::kNoRoom:
      return "no room";
    case AttachEnd::kFailed:
      return "failed";
    case AttachEnd::kEndedByServer:
      return "ended";
    case AttachEnd::kServerStopped:
      return "server stopped";
  }
  return "";
}

AttachConnection::AttachConnection(UniqueFd socket, PeerProcess process, const Terms& terms)
    : socket_(std::move(socket)),
      terms_(terms),
      peer_{.process = std::move(process), .label = {}},
      deadline_(Clock::now() + terms.acknowledge) {}

AttachConnection::~AttachConnection() {
  asking_.request_stop();
  EndLease(AttachEnd::kServerStopped);
}

std::optional<AttachRequest> AttachConnection::Receive() {
  AttachPacket packet;
  const int error = ReceiveAttachPacket(socket(), 0, packet);
  if (error == EAGAIN) return std::nullopt;
  if (error != 0 || packet.bytes.empty()) {
    OnGone();
    return std::nullopt;
  }
  absl::StatusOr<AttachMessage> message =
      packet.too_long ? absl::InvalidArgumentError("attach message: it is longer than 4,096 bytes")
                      : DecodeAttachMessage(packet.bytes);
  if (!message.ok()) {
    Refuse(AttachEnd::kProtocolError, MakeError(Reason::kBadRequest, ToStd(message.status().message())));
    return std::nullopt;
  }
  return OnMessage(*std::move(message));
}

std::optional<AttachRequest> AttachConnection::OnMessage(AttachMessage message) {
  if (state_ == State::kGreeting) {
    if (const auto* hello = std::get_if<AttachHello>(&message)) {
      peer_.label = ToUtf8(hello->label);
      batch_ = hello->batch;
      OnLease(terms_.source.Redeem(hello->token, peer_));
      return std::nullopt;
    }
    if (auto* request = std::get_if<AttachRequest>(&message)) {
      peer_.label = ToUtf8(request->label);
      batch_ = request->batch;
      if (terms_.rules.Allows(peer_.process)) return std::move(*request);
      Refuse(AttachEnd::kProtocolError, NotAllowed());
      return std::nullopt;
    }
  } else if (const auto* next = std::get_if<AttachNext>(&message); next != nullptr && state_ == State::kAwaitingNext) {
    OnNext(next->descriptor);
    return std::nullopt;
  } else if (std::holds_alternative<AttachRelease>(message) && lease_ != nullptr) {
    EndLease(AttachEnd::kReleased);
    Close();
    return std::nullopt;
  }
  Refuse(
      AttachEnd::kProtocolError,
      Unexpected("this message has no meaning now: a connection begins with HELLO or REQUEST, and each GRANT and FDS "
                 "is answered by one NEXT"));
  return std::nullopt;
}

void AttachConnection::OnAnswer(absl::StatusOr<std::unique_ptr<AttachLease>> lease) {
  if (state_ == State::kAsking) {
    OnLease(std::move(lease));
  } else if (lease.ok()) {
    (*lease)->Ended(AttachEnd::kClosed);
  }
}

void AttachConnection::OnLease(absl::StatusOr<std::unique_ptr<AttachLease>> lease) {
  if (!lease.ok()) return Refuse(AttachEnd::kFailed, lease.status());
  lease_ = *std::move(lease);
  if (descriptors() > kMostAttachDescriptors) {
    return Refuse(AttachEnd::kFailed,
                  MakeError(Reason::kInternal, "the lease has more segments than descriptors can be handed out for"));
  }
  ReadyToSend();
}

void AttachConnection::ReadyToSend() {
  state_ = State::kSending;
  deadline_ = Clock::now() + terms_.room;
}

uint32_t AttachConnection::wanted() const {
  if (acknowledged_ == 0) return 1;  // the table, with GRANT
  return std::min({batch_, terms_.most_batch, descriptors() - acknowledged_});
}

bool AttachConnection::Send(uint32_t room) {
  const uint32_t count = std::min(room, wanted());
  std::vector<std::shared_ptr<const UniqueFd>> held;
  std::vector<int> numbers;
  for (uint32_t i = 0; i < count; ++i) {
    absl::StatusOr<std::shared_ptr<const UniqueFd>> descriptor = lease_->Open(acknowledged_ + i);
    if (!descriptor.ok()) {
      Refuse(AttachEnd::kFailed, descriptor.status());
      return true;
    }
    numbers.push_back((*descriptor)->get());
    held.push_back(*std::move(descriptor));
  }
  int error = 0;
  if (acknowledged_ == 0) {
    error = SendMessage(
        AttachGranted{
            .generation = lease_->generation(), .descriptors = descriptors(), .lease = std::string(lease_->name())},
        numbers);
  } else {
    error = SendMessage(AttachDescriptors{.first = acknowledged_, .count = count}, numbers);
  }
  if (error == ETOOMANYREFS) return false;
  if (error == EPIPE || error == ECONNRESET) {
    OnGone();
  } else if (error != 0) {
    Refuse(AttachEnd::kFailed, MakeError(Reason::kInternal, StrCat("sending descriptors: ", std::strerror(error))));
  } else {
    in_flight_ = count;
    state_ = State::kAwaitingNext;
    deadline_ = Clock::now() + terms_.acknowledge;
  }
  return true;
}

void AttachConnection::OnNext(uint32_t descriptor) {
  // Fewer than were sent: the client had no room for the rest, which is sent again.
  if (descriptor <= acknowledged_ || descriptor > acknowledged_ + in_flight_) {
    return Refuse(AttachEnd::kProtocolError,
                  Unexpected("NEXT names a descriptor that was not sent, or none of the last message have arrived: ask "
                             "for fewer at a time, or raise the limit of open files"));
  }
  in_flight_ = 0;
  acknowledged_ = descriptor;
  if (acknowledged_ < descriptors()) return ReadyToSend();
  state_ = State::kHeld;
  deadline_.reset();
  lease_->Attached();
}

void AttachConnection::Expire(Clock::time_point now) {
  const auto waited = [](std::chrono::milliseconds time) { return StrCat(time.count(), " ms"); };
  switch (state_) {
    case State::kGreeting:
      return Refuse(
          AttachEnd::kNotAcknowledged,
          MakeError(Reason::kDeadlineExceeded, StrCat("the connection said nothing for ", waited(terms_.acknowledge))));
    case State::kAwaitingNext:
      return Refuse(AttachEnd::kNotAcknowledged,
                    MakeError(Reason::kDeadlineExceeded,
                              StrCat("descriptors were not acknowledged within ", waited(terms_.acknowledge),
                                     "; the lease has ended: attach again")));
    case State::kSending:
      return Refuse(AttachEnd::kNoRoom, MakeError(Reason::kLoadQueueFull,
                                                  StrCat("too many descriptors are on their way to other clients, for ",
                                                         waited(terms_.room), "; attach again")));
    case State::kUnread:
      if (HasUnread(socket())) {
        deadline_ = now + kUnreadCheck;
      } else {
        OnGone();
      }
      return;
    case State::kAsking:
    case State::kHeld:
    case State::kClosed:
      return;
  }
}

void AttachConnection::OnGone() {
  in_flight_ = 0;  // what it has not received is gone with its end of the connection
  EndLease(AttachEnd::kClosed);
  Close();
}

void AttachConnection::AddNote(AttachNoteKind kind, uint64_t generation) {
  notes_[static_cast<size_t>(kind)] = generation;
  notes_waiting_ = true;
  SendNotes();
}

void AttachConnection::SendNotes() {
  if (state_ != State::kHeld) return;
  for (size_t kind = 0; kind < notes_.size(); ++kind) {
    if (!notes_[kind]) continue;
    const int error = SendMessage(AttachNote{.kind = static_cast<AttachNoteKind>(kind), .generation = *notes_[kind]});
    if (error == EAGAIN) return;
    notes_[kind].reset();  // any other error: the client is gone, which the socket says too
  }
  notes_waiting_ = false;
}

int AttachConnection::SendMessage(const AttachMessage& message, std::span<const int> descriptors) {
  const absl::StatusOr<std::string> packet = EncodeAttachMessage(message);
  return packet.ok() ? SendAttachPacket(socket(), *packet, descriptors) : EINVAL;
}

void AttachConnection::Refuse(AttachEnd end, const absl::Status& why) {
  if (state_ == State::kClosed || state_ == State::kUnread) return;
  // A client that does not read may miss it: the connection ends all the same.
  SendMessage(MakeAttachError(why.code(), ReasonName(ErrorReason(why)), ToStd(why.message())));
  if (lease_ == nullptr) terms_.source.Refused(peer_, why);
  EndLease(end);
  Close();
}

void AttachConnection::EndLease(AttachEnd end) {
  if (lease_ == nullptr) return;
  lease_->Ended(end);
  lease_ = nullptr;
}

void AttachConnection::Close() {
  asking_.request_stop();
  deadline_.reset();
  if (in_flight_ > 0 && HasUnread(socket())) {
    state_ = State::kUnread;
    shutdown(socket(), SHUT_WR);  // the client sees the end after what it has not read
    deadline_ = Clock::now() + kUnreadCheck;
    return;
  }
  in_flight_ = 0;
  state_ = State::kClosed;
}

}  // namespace keyload
