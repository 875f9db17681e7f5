#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "server/base/executor.h"

namespace keyload {

// Calls task(i) for the numbers below `count`, on the calling thread and on up to `most_helpers` threads of `executor`
// that are free meanwhile; null: on the calling thread alone. Returns the error of the lowest number that failed;
// numbers above one that failed may be left out. Blocks until every call that began has ended, and for nothing else:
// the caller may be a thread of `executor` itself. `task` is called by several threads at a time.
absl::Status ParallelFor(Executor* executor, size_t count, absl::FunctionRef<absl::Status(size_t)> task,
                         size_t most_helpers = SIZE_MAX);

}  // namespace keyload
