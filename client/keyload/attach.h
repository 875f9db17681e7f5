#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace keyload {

// Attaching: the tensors of a resident model where they lie in the memory of a keyload server on this machine, without
// a byte copied and without gRPC. docs/attach.md specifies the protocol.

// What AcquireLease answered in `attach_token`. Good for one Attach.
struct AttachToken {
  std::string bytes;
};

// Which keys of which model. Nothing selected: all of them.
struct AttachSelection {
  std::string model;
  std::vector<std::string> include;  // globs
  std::vector<std::string> exclude;
  std::vector<std::string> keys;  // exact names
  bool materialize = false;       // make what is lazy resident first
};

struct AttachOptions {
  std::string label;  // what this process calls itself in the server's lists; at most 128 bytes
  absl::Duration timeout = absl::Seconds(60);  // for all of it, from the call's start
  // Descriptors that one message brings, 1 to 253. Each is closed once it is mapped; where this process has room for
  // fewer, the rest comes again.
  uint16_t batch = 253;
};

// A key and where its bytes are. Views are valid as long as the model that gave them.
struct AttachedTensor {
  std::string_view key;
  std::string_view dtype;             // a safetensors name: "BF16"
  std::span<const uint64_t> shape;    // outermost first
  std::span<const int64_t> strides;   // in elements; empty: dense
  std::span<const std::byte> bytes;   // only to be read: writing is a SIGSEGV
  std::span<const uint8_t> checksum;  // XXH3 of 128 bits over the bytes; empty: the server made none
  bool resident = false;              // false: a key of the model without bytes here
  uint32_t order = 0;                 // its place among the model's keys

  // The elements, if `T` has the size of the dtype's and the bytes are aligned for it; else nothing.
  template <typename T>
  std::span<const T> As() const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (sizeof(T) * 8 != element_bits || reinterpret_cast<uintptr_t>(bytes.data()) % alignof(T) != 0) return {};
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
  uint32_t element_bits = 0;
};

// What the server says of a lease that is held.
struct AttachNotice {
  enum class Kind { kNewGeneration = 1, kLeaseEnded = 2, kDraining = 3, kDeviceLost = 4 };
  Kind kind = Kind::kNewGeneration;
  uint64_t generation = 0;
};

// The reason in docs/errors.md of an error that a server sent to Attach; empty for one that was made here.
std::string AttachErrorReason(const absl::Status& status);

// A model that this process has attached to. The lease ends when this object is destroyed, or the process ends in
// whatever way. What is mapped may be read until this object is destroyed, also when the server has ended the lease
// or is gone.
//
// A forked process may use its copy to read, and keeps the lease as long as it keeps the copy: the lease ends with the
// last of them. exec ends it. Notices go to whichever process reads them first.
//
// Movable. Reading is thread-safe; NextNotice, Release and moving are not.
class AttachedModel {
 public:
  AttachedModel(AttachedModel&& other) noexcept;
  AttachedModel& operator=(AttachedModel&& other) noexcept;
  ~AttachedModel();

  const std::string& lease() const;
  uint64_t generation() const;

  // Keys in the order of the bytes of their names, those without bytes too.
  size_t size() const;
  // REQUIRES: index < size().
  AttachedTensor operator[](size_t index) const;
  // By bisection; nullopt: the lease has no such key.
  std::optional<AttachedTensor> Find(std::string_view key) const;

  // Whether nobody at all can change a byte of it (F_SEAL_WRITE). Else the server may still fill in what is not
  // resident yet, or it maps files, which whoever may write them can change or cut: reading cut ones is a SIGBUS.
  bool immutable() const;

  // To be polled for reading: NextNotice has something then. -1 after Release.
  int notice_fd() const;
  // The next notice, or nullopt: there is none now. UNAVAILABLE: the connection has ended, and with it the lease; the
  // status carries the server's reason if it gave one. Never waits.
  absl::StatusOr<std::optional<AttachNotice>> NextNotice();

  // Ends the lease now, also for the processes that have it by fork; those only close their copy. What is mapped stays.
  void Release();

 private:
  friend class AttachSession;
  struct State;
  explicit AttachedModel(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

// Attaches through the socket `address`, "unix:PATH". Everything that the server sends is checked before it is used:
// each row of the table, and of each descriptor that it is as large as the table says and that nobody can cut it.
//
// INVALID_ARGUMENT: the arguments. UNAVAILABLE: nobody listens there, or the server went away. DEADLINE_EXCEEDED.
// RESOURCE_EXHAUSTED: this process has no descriptors, or no room for maps. DATA_LOSS: what the server sent is not what
// docs/attach.md says, and none of it is used. Else the server's error, see AttachErrorReason.
absl::StatusOr<AttachedModel> Attach(const std::string& address, const AttachToken& token,
                                     const AttachOptions& options = {});
// The same with a new lease, for a process that may call the server's Unix socket without a token.
absl::StatusOr<AttachedModel> Attach(const std::string& address, const AttachSelection& selection,
                                     const AttachOptions& options = {});

}  // namespace keyload
