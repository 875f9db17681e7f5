#pragma once

#include <type_traits>
#include <utility>

#include "absl/status/status.h"

namespace keyload {

// Errors are values here, but what allocates can throw. Where a call's work begins (a task of an executor, a handler of
// an RPC) an exception becomes the error of that one call, and the thread goes on.

// What the exception that is being handled means for the call that it ends: MEMORY_EXHAUSTED for std::bad_alloc and
// std::length_error, INTERNAL for anything else. Only to be called in a catch block.
absl::Status StatusOfException() noexcept;

// Calls `function`, which returns nothing, a status or a StatusOr; the status of an exception that leaves it.
template <typename Function>
auto NoThrow(Function&& function) noexcept {
  using Result = std::invoke_result_t<Function>;
  if constexpr (std::is_void_v<Result>) {
    try {
      std::forward<Function>(function)();
      return absl::OkStatus();
    } catch (...) {
      return StatusOfException();
    }
  } else {
    try {
      return Result(std::forward<Function>(function)());
    } catch (...) {
      return Result(StatusOfException());
    }
  }
}

}  // namespace keyload
