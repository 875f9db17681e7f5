#pragma once

#include <string>

#include "absl/status/status.h"
#include "server/base/request_context.h"
#include "server/checkpoint/checkpoint_headers.h"
#include "server/checkpoint/header_memory.h"
#include "server/checkpoint/index_file.h"

namespace keyload {

// Compares what the index file at `path` says with what the headers of its shards say, and tells `headers` the
// differences that are none of a broken checkpoint. CHECKPOINT_CORRUPT: a key is in another shard, or comes twice in
// the file. MEMORY_EXHAUSTED.
absl::Status CompareWithIndex(const IndexFile& file, const std::string& path, const RequestContext& context,
                              HeaderCharge& charge, CheckpointHeaders& headers);

}  // namespace keyload
