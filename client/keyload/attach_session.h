#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

#include "absl/status/statusor.h"
#include "attach/attach_messages.h"
#include "attach/attach_socket.h"
#include "attach/attach_table.h"
#include "attach/read_only_mapping.h"
#include "keyload/attach.h"
#include "server/base/fd.h"

namespace keyload {

struct AttachedModel::State {
  UniqueFd connection;
  pid_t owner = 0;  // who may end the lease for all
  std::string lease;
  uint64_t generation = 0;
  ReadOnlyMapping table_bytes;
  AttachTable table;
  std::vector<ReadOnlyMapping> segments;
  bool immutable = true;
};

// An ERROR that a server sent as a status with its reason.
absl::Status StatusOfAttachError(const AttachError& error);

// The dialogue from the greeting to a complete lease. Single use; confine to one thread.
class AttachSession {
 public:
  explicit AttachSession(absl::Duration timeout);

  // What Attach does, with HELLO or REQUEST.
  absl::StatusOr<AttachedModel> Run(const std::string& address, const AttachMessage& greeting);
  // The same over a connection that is there.
  absl::StatusOr<AttachedModel> RunOn(UniqueFd connection, const AttachMessage& greeting);

 private:
  absl::Status Send(const AttachMessage& message);
  // The next message and its descriptors; the status of an ERROR.
  absl::StatusOr<AttachMessage> Receive();
  absl::Status TakeTable(const AttachMessage& message);
  // The descriptors of one message, of which those that did not arrive are asked for again.
  absl::Status TakeSegments(const AttachMessage& message);
  absl::Status MapSegment(uint32_t index, int descriptor);

  const std::chrono::steady_clock::time_point deadline_;
  std::unique_ptr<AttachedModel::State> model_;
  uint32_t descriptors_ = 0;  // of the lease, the table among them
  uint32_t next_ = 0;         // the first that has not arrived
  AttachPacket packet_;
};

}  // namespace keyload
