#pragma once

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "server/base/fd.h"

namespace keyload {

// Memory of a memfd that is handed to other processes and that none of them can harm: through what they get nobody,
// root too, can write, map for writing, truncate or punch, and no seal can be added or lifted.
//
// Others get one descriptor that was opened for reading when the memory was sealed, and no other is opened later, as
// whoever holds it may fchmod or fchown the file so that it cannot be opened again. A second descriptor stays in this
// process, to ask the kernel whether anybody else still has the memory. Movable; not thread-safe.
class SealedMemory {
 public:
  enum class Protection {
    // Nobody can change a byte any more, this process included. No writable map may be left.
    kFinal,
    // Nobody can change a byte but through the writable maps that this process has now; a write to the descriptor, a
    // truncation and a punch are refused for it too.
    kFromOutside,
  };

  // Takes a memfd that was made with MFD_ALLOW_SEALING. FAILED_PRECONDITION: it is mapped writable, or this kernel does
  // not enforce the protection, as those before 5.13 for huge pages, so that it may not be handed out.
  // RESOURCE_EXHAUSTED: no descriptors are left.
  static absl::StatusOr<SealedMemory> Seal(UniqueFd memfd, Protection protection);

  // What others get; null once it has been withdrawn. Who sends it holds it meanwhile.
  const std::shared_ptr<const UniqueFd>& shared() const { return shared_; }
  // This process hands the memory out no more.
  void Withdraw() { shared_ = nullptr; }

  // Whether, after Withdraw and without maps of this process's own, anybody has a descriptor or a map of the memory, or
  // a descriptor is on its way. Sees neither maps that were made before sealing, such as a child of this process has,
  // nor pages that somebody spliced into a pipe: it decides what is charged, never whether memory is used again. True
  // when the kernel does not say, as when a client took the file over (EACCES).
  bool IsHeld() const;

 private:
  SealedMemory(UniqueFd probe, std::shared_ptr<const UniqueFd> shared)
      : probe_(std::move(probe)), shared_(std::move(shared)) {}

  UniqueFd probe_;  // opened for writing, which only its seals forbid: it never leaves this process
  std::shared_ptr<const UniqueFd> shared_;
};

}  // namespace keyload
