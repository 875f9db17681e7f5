#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/cli/json_output.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// A report in the Trace Event format, which Perfetto and chrome://tracing open: times in microseconds from the start of
// the load, which is `otherData.startTime`. One track has the load and in it its phases, as they were measured. What
// was measured as a sum only (`busy`, the reads of a shard) has a track of its own each and is put where the transfer
// starts; its args say so. Thread-safe.
Json TraceOf(const v1::LoadReport& report);

// Replaces the file `path`, see ReplaceFile.
absl::Status WriteTraceFile(const std::string& path, const v1::LoadReport& report);

}  // namespace keyload::cli
