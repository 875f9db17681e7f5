#pragma once

#include <poll.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "attach/attach_messages.h"
#include "attach/attach_socket.h"
#include "server/base/fd.h"

namespace keyload {

// One end of an attach connection that sends what a test says, in whatever order, and waits for what comes.
class RawAttachClient {
 public:
  explicit RawAttachClient(const std::string& path)
      : socket_(std::move(ConnectAttachSocket(path, absl::Seconds(10)).value())) {}
  explicit RawAttachClient(UniqueFd socket) : socket_(std::move(socket)) {}

  int SendBytes(std::string_view bytes, std::span<const int> descriptors = {}) {
    return SendAttachPacket(socket_.get(), bytes, descriptors);
  }
  int Send(const AttachMessage& message, std::span<const int> descriptors = {}) {
    return SendBytes(EncodeAttachMessage(message).value(), descriptors);
  }
  // The next message, or nullopt at the end. Its descriptors are in descriptors().
  std::optional<AttachMessage> Receive() {
    while (true) {
      const int error = ReceiveAttachPacket(socket_.get(), kMostAttachBatch, packet_);
      if (error == EAGAIN) {
        pollfd wait = {.fd = socket_.get(), .events = POLLIN, .revents = 0};
        poll(&wait, 1, -1);
        continue;
      }
      if (error != 0 || packet_.bytes.empty()) return std::nullopt;
      return DecodeAttachMessage(packet_.bytes).value();
    }
  }
  // nullopt too for a message of another type.
  template <typename Message>
  std::optional<Message> ReceiveA() {
    std::optional<AttachMessage> message = Receive();
    if (!message || !std::holds_alternative<Message>(*message)) return std::nullopt;
    return std::get<Message>(*std::move(message));
  }
  const std::vector<UniqueFd>& descriptors() const { return packet_.descriptors; }
  void Close() { socket_ = UniqueFd(); }
  int fd() const { return socket_.get(); }

 private:
  UniqueFd socket_;
  AttachPacket packet_;
};

}  // namespace keyload
