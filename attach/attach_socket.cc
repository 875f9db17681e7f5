#include "attach/attach_socket.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "attach/attach_format.h"

namespace keyload {
namespace {

// Room for the descriptors of one message, aligned as the kernel's headers in it must be.
union ControlBuffer {
  cmsghdr alignment;
  std::array<char, CMSG_SPACE(kMostAttachBatch * sizeof(int))> bytes;
};

// Owns every descriptor that came, in control messages of whatever number and kind.
std::vector<UniqueFd> TakeDescriptors(msghdr& header) {
  std::vector<UniqueFd> descriptors;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int descriptor = -1;
      std::memcpy(&descriptor, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      descriptors.emplace_back(descriptor);
    }
  }
  return descriptors;
}

}  // namespace

int SendAttachPacket(int socket, std::string_view bytes, std::span<const int> descriptors) {
  if (descriptors.size() > kMostAttachBatch) return EINVAL;
  iovec content = {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  msghdr header = {};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  ControlBuffer control = {};
  if (!descriptors.empty()) {
    header.msg_control = control.bytes.data();
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* const part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(part), descriptors.data(), descriptors.size_bytes());
  }
  while (sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

int ReceiveAttachPacket(int socket, size_t most_descriptors, AttachPacket& packet) {
  packet = {};
  std::array<char, kAttachPacketBytes> bytes;
  iovec content = {.iov_base = bytes.data(), .iov_len = bytes.size()};
  msghdr header = {};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  ControlBuffer control = {};
  if (most_descriptors > 0) {
    header.msg_control = control.bytes.data();
    // CMSG_SPACE would leave room for one more where the number is odd.
    header.msg_controllen = CMSG_LEN(std::min<size_t>(most_descriptors, kMostAttachBatch) * sizeof(int));
  }
  // The kernel tells of a reset, which an end that was closed with something unread makes, before it hands out what
  // came before that, the error that says why.
  bool was_reset = false;
  ssize_t received = -1;
  while ((received = recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)) < 0) {
    if (errno != EINTR && (errno != ECONNRESET || was_reset)) return errno;
    was_reset = was_reset || errno == ECONNRESET;
  }
  if (most_descriptors > 0) packet.descriptors = TakeDescriptors(header);
  packet.bytes.assign(bytes.data(), static_cast<size_t>(received));
  packet.too_long = (header.msg_flags & MSG_TRUNC) != 0;
  packet.lost_descriptors = (header.msg_flags & MSG_CTRUNC) != 0;
  return 0;
}

absl::StatusOr<UniqueFd> ConnectAttachSocket(const std::string& path, absl::Duration timeout) {
  sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = {}};
  if (path.empty() || path.size() >= sizeof(name.sun_path))
    return absl::InvalidArgumentError(absl::StrCat("no Unix socket can have this path: ", path.substr(0, 200)));
  std::copy(path.begin(), path.end(), name.sun_path);
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) return absl::ResourceExhaustedError(absl::StrCat("socket: ", std::strerror(errno)));
  const timeval wait = absl::ToTimeval(std::clamp(timeout, absl::Milliseconds(1), absl::Hours(24)));
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
  while (connect(socket.get(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) != 0) {
    if (errno == EINTR) continue;
    const std::string why = absl::StrCat(path, ": ", std::strerror(errno));
    if (errno == EACCES || errno == EPERM) return absl::PermissionDeniedError(why);
    return absl::UnavailableError(why);
  }
  return socket;
}

}  // namespace keyload
