#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attach/attach_messages.h"
#include "server/access/peer.h"
#include "server/attach/attach_source.h"
#include "server/base/fd.h"

namespace keyload {

// Hands memory to other processes over a Unix socket, by the protocol of docs/attach.md: a lease as long as its
// connection is open in any process. One thread serves all connections and waits for none of them; what a client may
// take is bounded (AttachBounds). Thread-safe.
class AttachServer {
 public:
  struct Options {
    uint32_t descriptors = 1024;                   // that this process may have: RLIMIT_NOFILE
    std::chrono::milliseconds acknowledge{2'000};  // a client has for HELLO and for each NEXT
    std::chrono::milliseconds room{10'000};        // a client waits until others have taken their descriptors
  };

  // `listening` is a socket of type SOCK_SEQPACKET that listens and does not block. `source` and `rules` outlive the
  // server. RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<AttachServer>> Start(UniqueFd listening, AttachSource& source,
                                                             const CurrentPeerRules& rules, const Options& options);
  // Ends all leases (kServerStopped) and closes the socket. Clients keep what they have mapped.
  ~AttachServer();
  AttachServer(const AttachServer&) = delete;

  // Tells the client of a lease that has all of its descriptors; of any other nothing happens. Returns at once.
  void Note(std::string lease, AttachNoteKind kind, uint64_t generation);
  // Tells all of them.
  void NoteAll(AttachNoteKind kind);
  // Ends a lease, also one whose client does not have everything yet: the client is told why.
  void End(std::string lease, absl::Status why);

  // What clients have of the server now, for metrics. Waits for the thread of the server, which never waits for long.
  struct Counts {
    uint32_t connections = 0;
    uint32_t leases = 0;
    uint32_t descriptors_in_flight = 0;
    uint32_t descriptors_unread = 0;
  };
  Counts Count();

 private:
  class Loop;
  explicit AttachServer(std::unique_ptr<Loop> loop);

  std::unique_ptr<Loop> loop_;
};

}  // namespace keyload
