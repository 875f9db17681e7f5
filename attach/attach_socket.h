#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/fd.h"

namespace keyload {

// Packets with descriptors over a Unix socket of type SOCK_SEQPACKET, which keeps the bounds of messages and hands out
// what it has received when the other end is gone. Sending and receiving never wait; errors are numbers of errno.

struct AttachPacket {
  std::string bytes;  // empty: the other end is gone
  std::vector<UniqueFd> descriptors;
  bool too_long = false;  // the rest of it is lost
  bool lost_descriptors =
      false;  // it had more than there was room for: in this process's table, or than were asked for
};

// 0, or why nothing was sent: EAGAIN (the other end does not read), ETOOMANYREFS (this user has too many descriptors
// on their way), EPIPE. Raises no signal.
int SendAttachPacket(int socket, std::string_view bytes, std::span<const int> descriptors);

// 0 and the next packet, or EAGAIN, or another error. At most `most_descriptors` are taken; those of a receiver that
// wants none never enter its table. They are closed on exec.
int ReceiveAttachPacket(int socket, size_t most_descriptors, AttachPacket& packet);

// A connection to the socket `path`. Waits at most `timeout`, which only a server that does not get on makes it do.
// INVALID_ARGUMENT for a path that no socket can have; UNAVAILABLE when nobody listens there; PERMISSION_DENIED.
absl::StatusOr<UniqueFd> ConnectAttachSocket(const std::string& path, absl::Duration timeout);

}  // namespace keyload
