#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/fd.h"

namespace keyload {

// An address that connections are accepted on by a thread of its own. gRPC 1.51's own loop ends for good when the
// process is once out of descriptors, and shows nobody who connects. While only an eighth of the descriptors is left,
// which models and answers need, new connections are closed at once. Confine to one thread.
class Listener {
 public:
  using OnConnection = std::function<void(UniqueFd)>;

  // Locks PATH.lock, so that a second daemon is told from a socket that the last one left behind, and binds: from then
  // on connections wait. The directory is made where it is absent. BAD_REQUEST names the path.
  static absl::StatusOr<std::unique_ptr<Listener>> BindUnix(const std::string& path, uint32_t mode);
  // "HOST:PORT": every address that the host's name stands for, with one port; port 0 is chosen by the system. Blocks
  // on the name. BAD_REQUEST names the address.
  static absl::StatusOr<std::unique_ptr<Listener>> BindTcp(const std::string& address);
  // Stops and takes a Unix socket away.
  ~Listener();

  // As bound, with the real port.
  const std::string& address() const { return address_; }
  // Hands every connection to `on_connection`, on the thread. At most once.
  void Start(OnConnection on_connection);

 private:
  Listener(std::string address, std::vector<UniqueFd> sockets, UniqueFd lock);
  void Run(const OnConnection& on_connection);
  // Sockets that have connections; none when the listener ends. While `full` only the end is waited for, a while.
  std::vector<int> Wait(bool full);
  // False when there is no room for more.
  bool Accept(int socket, const OnConnection& on_connection);

  const std::string address_;
  const std::vector<UniqueFd> sockets_;
  const UniqueFd lock_;  // of a Unix socket
  const UniqueFd wake_;  // readable from the end on
  bool ended_ = false;   // the thread's
  std::thread thread_;
};

}  // namespace keyload
