#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attach/attach_messages.h"
#include "server/access/peer.h"
#include "server/base/fd.h"

namespace keyload {

// Who is at the other end of an attach connection. The process is what the kernel says (its pid is 0 from another PID
// namespace); the label is what it calls itself: UTF-8, at most 128 bytes before what was none was replaced, and not to
// be believed.
struct AttachPeer {
  PeerProcess process;
  std::string label;
};

// Why a lease ended.
enum class AttachEnd {
  kReleased,         // its client said so
  kClosed,           // no process has the connection any more
  kNotAcknowledged,  // its client did not say in time what it had received
  kProtocolError,    // its client sent what no client sends
  kNoRoom,           // descriptors could not be sent in time, as others do not take theirs
  kFailed,           // a descriptor could not be opened, or sent
  kEndedByServer,    // AttachServer::End
  kServerStopped,
};
std::string_view AttachEndName(AttachEnd end);  // "released"

// One lease while a connection has it. Its calls come from the thread of the AttachServer, one at a time, and must not
// block; it is destroyed there too.
class AttachLease {
 public:
  virtual ~AttachLease() = default;

  virtual std::string_view name() const = 0;  // 1 to 256 bytes
  virtual uint64_t generation() const = 0;
  virtual uint32_t segments() const = 0;  // at most 1,023
  // Descriptor 0 is the table, descriptor k segment k - 1: one that the client may have, the same or a new one each
  // time. It is held until it has been sent.
  virtual absl::StatusOr<std::shared_ptr<const UniqueFd>> Open(uint32_t descriptor) = 0;
  // Its client has everything.
  virtual void Attached() = 0;
  // Once, last of all. No descriptor of this lease is sent after it, though some may still be on their way.
  virtual void Ended(AttachEnd end) = 0;
};

// What an AttachServer hands out. Its calls come from the thread of the server, one at a time, and must not block.
class AttachSource {
 public:
  using Done = absl::AnyInvocable<void(absl::StatusOr<std::unique_ptr<AttachLease>>)>;

  virtual ~AttachSource() = default;

  // The lease that a one-time token stands for, which is used up by that. TOKEN_INVALID for any other.
  virtual absl::StatusOr<std::unique_ptr<AttachLease>> Redeem(const AttachTokenBytes& token,
                                                              const AttachPeer& peer) = 0;
  // A new lease, for a process that the rules for peers let in. `done` is called once, from any thread, also from
  // within this call and after the server is gone. A stop is requested when the client goes away first.
  virtual void Acquire(AttachRequest request, const AttachPeer& peer, std::stop_token stop, Done done) = 0;
  // A connection that ends with an error before it has a lease, for what is counted and logged.
  virtual void Refused(const AttachPeer& peer, const absl::Status& why) = 0;
};

}  // namespace keyload
