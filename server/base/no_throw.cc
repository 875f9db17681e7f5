#include "server/base/no_throw.h"

#include <exception>
#include <new>
#include <stdexcept>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

absl::Status NoMemory() {
  return MakeError(Reason::kMemoryExhausted,
                   "the daemon has no memory left for this call: try again when others have ended, ask for less at a "
                   "time, or give the daemon more memory");
}

// Throws when there is not even memory for the message.
absl::Status Classify() {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return NoMemory();
  } catch (const std::length_error&) {
    return NoMemory();
  } catch (const std::exception& error) {
    return MakeError(Reason::kInternal, StrCat("an exception: ", error.what()));
  } catch (...) {
    return MakeError(Reason::kInternal, "an exception");
  }
}

}  // namespace

absl::Status StatusOfException() noexcept {
  try {
    return Classify();
  } catch (...) {
    return absl::Status(absl::StatusCode::kResourceExhausted, "");  // takes no memory
  }
}

}  // namespace keyload
