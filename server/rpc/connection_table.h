#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace keyload {

// The open connections of one listener, counted in all and per peer. A connection that was handed to gRPC ends without
// a word to whoever accepted it. So the table keeps the descriptor's number with the inode of its socket, and looks
// again when a limit is reached: a number that is closed, or has become another file, is a connection that has ended.
// Confine to one thread.
class ConnectionTable {
 public:
  struct Limits {
    size_t total = 0;
    size_t per_peer = 0;
  };
  enum class Admission { kAdmitted, kTooMany, kTooManyOfPeer };

  // Counts the connection `fd` of `peer`, unless a limit is reached.
  Admission Admit(int fd, const std::string& peer, const Limits& limits);
  // Connections that were open when the table last looked.
  size_t size() const { return connections_.size(); }

 private:
  struct Connection {
    dev_t device = 0;
    ino_t inode = 0;
    std::string peer;
  };
  Admission CheckLimits(const std::string& peer, const Limits& limits) const;
  void Forget(int fd);
  // Forgets what has ended; at most once in a short while, so that a flood of connections costs little.
  void ForgetEnded();

  absl::flat_hash_map<int, Connection> connections_;      // by descriptor
  absl::flat_hash_map<std::string, size_t> of_peer_;      // never 0
  std::chrono::steady_clock::time_point next_look_ = {};  // not before
};

}  // namespace keyload
