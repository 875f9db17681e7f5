#pragma once

#include <dirent.h>

#include <cstddef>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "server/base/request_context.h"
#include "server/checkpoint/model_roots.h"

namespace keyload {

inline constexpr size_t kMaxListed = 200'000;  // entries of a directory that are looked at

// Calls `visit` with the entries of the directory `name` below `directory`, "." for itself, in no order, until it
// returns false. Links to directories are not followed. Asks `context`. An error of the file system is one, also in the
// middle.
absl::Status VisitEntries(const OpenedPath& directory, const char* name, const RequestContext& context,
                          absl::FunctionRef<bool(const dirent&)> visit);

}  // namespace keyload
