#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "server/base/fd.h"

namespace keyload {

// A Unix socket that connections are accepted on by a thread of its own. Confine to one thread.
class UnixListener {
 public:
  using OnConnection = std::function<void(UniqueFd)>;

  // Locks PATH.lock, so that a second daemon is told from a socket that the last one left behind, and binds: from then
  // on connections wait. The directory is made where it is absent. BAD_REQUEST names the path.
  static absl::StatusOr<std::unique_ptr<UnixListener>> Bind(const std::string& path, uint32_t mode);
  // Stops and takes the socket away.
  ~UnixListener();

  // Hands every connection to `on_connection`, on the thread. At most once.
  void Start(OnConnection on_connection);
  // Takes the socket's name away.
  void Unlink();

 private:
  UnixListener(std::string path, UniqueFd lock, UniqueFd socket, UniqueFd wake);
  void Run(const OnConnection& on_connection);
  // False when the listener ends. With a timeout only the end is waited for.
  bool Wait(int timeout_ms);

  const std::string path_;
  const UniqueFd lock_;
  const UniqueFd socket_;
  const UniqueFd wake_;  // readable from the end on
  std::thread thread_;
};

}  // namespace keyload
