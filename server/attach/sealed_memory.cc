#include "server/attach/sealed_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "server/base/strings.h"

namespace keyload {
namespace {

// A file of its own for the same memory. The one that memfd_create gives is not counted among the users of the memory,
// so a lease could never be had on it.
UniqueFd OpenAgain(int memfd, int flags) {
  return UniqueFd(open(StrCat("/proc/self/fd/", memfd).c_str(), flags | O_CLOEXEC));
}

absl::Status CannotOpen() {
  const std::string why = StrCat("opening a memfd again through /proc: ", std::strerror(errno));
  if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) return absl::ResourceExhaustedError(why);
  return absl::FailedPreconditionError(StrCat(why, "; attaching needs /proc"));
}

// Seals that are set and not enforced: huge pages before Linux 5.13 (22247efd822e).
bool CanBeMappedWritable(int file) {
  struct stat status = {};
  if (fstat(file, &status) != 0) return true;
  const auto page = static_cast<size_t>(status.st_blksize);
  void* const address = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (address != MAP_FAILED) munmap(address, page);
  return address != MAP_FAILED;
}

}  // namespace

absl::StatusOr<SealedMemory> SealedMemory::Seal(UniqueFd memfd, Protection protection) {
  UniqueFd probe = OpenAgain(memfd.get(), O_RDWR);
  if (!probe) return CannotOpen();
  auto shared = std::make_shared<const UniqueFd>(OpenAgain(memfd.get(), O_RDONLY));
  if (!*shared) return CannotOpen();
  const int write = protection == Protection::kFinal ? F_SEAL_WRITE : F_SEAL_FUTURE_WRITE;
  if (fcntl(probe.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | write) != 0) {
    return absl::FailedPreconditionError(
        StrCat("sealing a memfd: ", std::strerror(errno), errno == EBUSY ? ": it is still mapped for writing" : ""));
  }
  if (CanBeMappedWritable(probe.get())) {
    return absl::FailedPreconditionError(
        "this kernel lets sealed memory be written (huge pages before Linux 5.13): it cannot be handed out");
  }
  return SealedMemory(std::move(probe), std::move(shared));
}

bool SealedMemory::IsHeld() const {
  if (fcntl(probe_.get(), F_SETLEASE, F_WRLCK) != 0) return true;
  fcntl(probe_.get(), F_SETLEASE, F_UNLCK);
  return false;
}

}  // namespace keyload
