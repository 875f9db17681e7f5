#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/device/device.h"
#include "server/io/shard_reader.h"
#include "server/keys/reconcile.h"
#include "server/plan/load_plan.h"
#include "server/report/load_report.h"

namespace keyload {

// One allocation of a model, or one of its files.
struct Segment {
  SegmentKind kind = SegmentKind::kMemory;
  Device* device = nullptr;              // lives as long as the daemon
  std::shared_ptr<DeviceMemory> memory;  // kMemory; null while no tensor of the segment is resident
  uint32_t shard = 0;                    // kFile
};

// Where the bytes of one key are.
struct TensorPlace {
  enum class State : uint8_t { kNone, kResident, kLazy };
  State state = State::kNone;
  DType dtype = DType::kF32;
  uint32_t segment = 0;  // kResident
  uint64_t offset = 0;   // in the segment; kLazy and kFile: in the file
  uint64_t bytes = 0;
};

// A loaded model: its key table, the memory that holds it, and the report of its load. Immutable and thread-safe;
// destroying it frees its memory on every device.
class ResidentModel {
 public:
  struct Content {
    std::string name;
    std::string fingerprint;  // of the request that made it; equal requests have equal ones
    std::string source_path;  // as requested
    std::shared_ptr<const KeyReport> keys;
    std::vector<TensorPlace> places;  // per KeyReport::keys
    std::vector<Segment> segments;
    std::vector<std::shared_ptr<ShardReader>> readers;  // per shard of the index; null where no byte stays in the file
    std::vector<uint16_t> device_of_key;                // index into `devices`; kNoDevice where a key has no place
    std::vector<std::string> devices;
    LoadReport report;
    absl::Time load_time;
  };
  static constexpr uint16_t kNoDevice = 0xffff;

  explicit ResidentModel(Content content);

  const Content& content() const { return content_; }
  const LoadReport& report() const { return content_.report; }
  uint64_t resident_bytes() const;  // allocated on devices; what is mapped does not count

  // Index into keys->keys, or -1.
  int64_t FindKey(std::string_view name) const;
  // The key that holds the bytes of `key`: itself, or who supplies a tied key. KEY_NOT_RESIDENT (missing, mismatched,
  // not selected ...).
  absl::StatusOr<uint32_t> Holder(uint32_t key) const;
  // Copies `destination.size()` bytes of `key` from `offset` on, from wherever they are; a lazy key is read from its
  // file. Blocks. REQUIRES: Holder(key) == key and the range lies in the tensor. CHECKPOINT_TRUNCATED,
  // CHECKPOINT_CHANGED, IO_ERROR.
  absl::Status Read(uint32_t key, uint64_t offset, std::span<std::byte> destination) const;

 private:
  Content content_;
  absl::flat_hash_map<std::string_view, uint32_t> by_name_;
};

}  // namespace keyload
