#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/audit/finding.h"
#include "server/base/request_context.h"
#include "server/keys/reconcile.h"
#include "server/placement/placement.h"

namespace keyload {

enum class Outcome { kPlanned, kComplete, kIncomplete, kRejected, kCancelled, kFailed };
std::string_view OutcomeName(Outcome outcome);  // "COMPLETE"

enum class ExpectedFrom { kCheckpoint, kConfig, kManifest, kLike };

struct Phase {
  std::string name;
  absl::Duration start;  // from the start of the load
  absl::Duration duration;
};

struct MismatchedKey {
  std::string key;
  Shape expected_shape;
  Shape found_shape;
  DType expected_dtype = DType::kF32;
  DType found_dtype = DType::kF32;
};

struct DeviceUse {
  std::string device;
  std::string uuid;
  bool simulated = false;
  uint64_t tensors = 0;  // that are or will be resident there
  uint64_t tensor_bytes = 0;
  uint64_t reserved_bytes = 0;  // segments, padding included; 0 for what is mapped
  uint64_t copied_bytes = 0;
  absl::Duration copy_duration;  // summed over copies
  uint64_t missing_bytes = 0;    // placed there, but without data
};

struct ShardUse {
  std::string file;
  uint64_t tensors = 0;
  uint64_t selected_bytes = 0;
  uint64_t read_bytes = 0;
  std::string engine;  // mapped | buffered, or both with "+"
  absl::Duration duration;
};

struct ByteCounts {
  uint64_t selected = 0;  // stored bytes of the tensors to load
  uint64_t read = 0;      // tensor bytes that read calls returned, gaps between tensors included
  uint64_t mapped = 0;
  uint64_t cached = 0;  // part of `read` that was in the page cache
  uint64_t peak_scratch = 0;
};

// The result of a load: the one truth behind the RPC's answer, the log line and the metrics. A value. Of a load that
// makes a model wider, keys, names, map and devices are those of the whole model; bytes, shards, phases and busy, and
// what was copied to a device, are those of the load.
struct LoadReport {
  std::string load;
  std::string model;
  std::string request_id;  // of who started the load
  uint64_t generation = 0;
  Outcome outcome = Outcome::kPlanned;
  absl::Status error;  // why FAILED or CANCELLED
  ExpectedFrom expected_from = ExpectedFrom::kCheckpoint;
  KeyCounts keys;
  std::vector<std::string> missing_keys;  // natural order, at most the request's name limit
  std::vector<std::string> unexpected_keys;
  std::vector<MismatchedKey> mismatched_keys;
  std::vector<MapEntry> device_map;
  std::vector<DeviceUse> devices;
  std::vector<Phase> phases;  // disjoint, in order
  std::vector<Phase> busy;    // inside transfer, summed over threads
  absl::Duration total;
  ByteCounts bytes;
  std::vector<ShardUse> shards;
  std::vector<std::string> warnings;
  std::string compared_with;  // for people; "nothing: " and why where the checkpoint's own keys are expected
  std::vector<Finding> findings;
  absl::Time start_time;
};

// Writes the one log line of a finished load: outcome, counts, bytes, the time of every phase, and the traceparent of
// `caller`, who started it; null: nobody did.
void LogLoad(const LoadReport& report, const Caller* caller = nullptr);

}  // namespace keyload
