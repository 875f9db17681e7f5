#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/checkpoint/model_roots.h"

namespace keyload {

// The cache of the Hugging Face hub has a directory for each repository:
//
//   models--ORG--NAME/refs/main          the commit that is meant without another word
//   models--ORG--NAME/snapshots/COMMIT/  the files, as links
//   models--ORG--NAME/blobs/             where the links lead; NAME.incomplete while a file is being downloaded

// Whether an entry of this name is such a directory.
inline bool IsHubRepository(std::string_view name) { return name.starts_with("models--"); }

// The snapshot that the repository `directory` stands for: the one of refs/main, or the only one. Nothing if it is no
// repository. CHECKPOINT_AMBIGUOUS: there are several, and refs/main names none; CHECKPOINT_NOT_FOUND: there is none,
// or not that of refs/main. Blocks.
absl::StatusOr<std::optional<OpenedPath>> OpenSnapshot(const ModelRoots& roots, const OpenedPath& directory,
                                                       const RequestContext& context);

// What to say of downloads that were not finished: files *.incomplete beside the checkpoint in `directory`, in its
// download cache, or among the blobs of its repository; up to three names with their sizes. Begins with "; ". Empty if
// there are none, or they may not be seen. Blocks.
std::string UnfinishedDownloads(const ModelRoots& roots, const OpenedPath& directory, const RequestContext& context);

}  // namespace keyload
