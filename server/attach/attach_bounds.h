#pragma once

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"

namespace keyload {

// What clients may take of an AttachServer together, and those of one user: connections, connections without a lease,
// and descriptors on their way. The bounds follow from `descriptors`, how many this process may have, as the kernel
// allows its user as many on their way, over all sockets, and refuses every send beyond. Confine to one thread.
class AttachBounds {
 public:
  explicit AttachBounds(uint32_t descriptors) : descriptors_(descriptors) {}

  uint32_t most_connections() const { return AtLeast(descriptors_ / 4); }
  uint32_t most_connections_of_user() const { return AtLeast(most_connections() / 2); }
  // Of those without a lease.
  uint32_t most_pending() const { return AtLeast(most_connections() / 4); }
  uint32_t most_pending_of_user() const { return AtLeast(most_pending() / 2); }
  // On their way to clients that still have time to acknowledge them.
  uint32_t most_in_flight() const { return AtLeast(descriptors_ / 4); }
  // Of one client: sixteen of them can be slow at once.
  uint32_t most_batch() const { return AtLeast(most_in_flight() / 16); }
  // That clients of one user have left unread. Beyond it the user gets no new connection.
  uint32_t most_unread_of_user() const { return AtLeast(descriptors_ / 8); }
  uint32_t most_unread() const { return AtLeast(descriptors_ / 2); }

  // What one connection takes now.
  struct Use {
    uint32_t connections = 0;
    uint32_t pending = 0;    // connections without a lease
    uint32_t in_flight = 0;  // descriptors to a client that is waited for
    uint32_t unread = 0;     // descriptors to one that was given up

    bool operator==(const Use&) const = default;
  };
  // Replaces what was counted before for the same connection.
  void Change(uint32_t user, const Use& before, const Use& after);
  // OK, or why a process of this user gets no connection now: LOAD_QUEUE_FULL.
  absl::Status CheckNew(uint32_t user) const;
  // How many descriptors may be sent now.
  uint32_t room() const { return most_in_flight() > total_.in_flight ? most_in_flight() - total_.in_flight : 0; }

  const Use& total() const { return total_; }

 private:
  static uint32_t AtLeast(uint32_t value) { return value == 0 ? 1 : value; }

  const uint32_t descriptors_;
  Use total_;
  absl::flat_hash_map<uint32_t, Use> users_;  // those that have a connection
};

}  // namespace keyload
