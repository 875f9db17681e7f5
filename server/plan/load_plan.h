#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/keys/reconcile.h"
#include "server/placement/placement.h"

namespace keyload {

// What happens to one key's element type on load.
struct DTypeRequest {
  std::optional<DType> wanted;            // for convertible floating tensors; nullopt: as stored
  std::vector<std::string> keep_in_fp32;  // dotted components whose tensors become F32 instead of a 16-bit type
};

// The keys that get a place, with the sizes that they will have there. Non-persistent buffers take part in the sizes,
// keys that are not selected do not.
struct PlacementInput {
  PlacementModel model;
  std::vector<uint32_t> keys;  // per placed tensor: index into KeyReport::keys
  std::vector<DType> dtypes;   // per placed tensor: on the device
};
PlacementInput MakePlacementInput(const KeyReport& report, const DTypeRequest& dtype,
                                  const std::vector<std::string>& no_split_classes);

// How the bytes of an extent become resident.
//   kMapped    host tensors that stay in the file: the page cache is the copy
//   kBuffered  read calls into segments, through scratch memory where a device needs a copy
enum class Engine : uint8_t { kMapped, kBuffered };
std::string_view EngineName(Engine engine);

enum class SegmentKind : uint8_t { kFile, kMemory };

// One eviction unit on one device: a layer, or several small modules together, at least 2 MiB where the model allows.
struct PlannedSegment {
  SegmentKind kind = SegmentKind::kMemory;
  uint16_t device = 0;  // index into LoadPlan::devices
  uint32_t shard = 0;   // kFile only: the whole shard is the segment
  uint64_t bytes = 0;   // kMemory: to allocate, padding included; kFile: the shard's size
};

struct PlannedTensor {
  uint32_t key = 0;  // index into KeyReport::keys
  uint32_t segment = 0;
  uint64_t segment_offset = 0;  // kFile: the file offset
  uint64_t bytes = 0;           // on the device
  uint64_t file_offset = 0;
  uint64_t stored_bytes = 0;
  uint32_t shard = 0;
  DType dtype = DType::kF32;  // on the device
  DType stored_dtype = DType::kF32;
};

// One contiguous byte range of one shard, and the run of LoadPlan::tensors that lies in it.
//
//   file   ....[ tensor a ][ tensor b ]..gap..[ tensor c ]....
//   extent     |<------------------ length ------------->|
struct Extent {
  uint32_t shard = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  uint32_t first_tensor = 0;
  uint32_t tensor_count = 0;
  Engine engine = Engine::kBuffered;
};

// A second stored copy of a tied tensor. Both are loaded and compared after reading; an equal one is dropped.
struct TiedDuplicate {
  uint32_t tensor = 0;    // index into LoadPlan::tensors; alone in its segment
  uint32_t provider = 0;  // index into LoadPlan::tensors
};

// Everything decided before a tensor byte is read. Immutable.
struct LoadPlan {
  std::vector<std::string> devices;
  std::vector<PlannedSegment> segments;
  std::vector<PlannedTensor> tensors;  // by engine, then shard, then file offset
  std::vector<Extent> extents;         // the same order
  std::vector<uint32_t> lazy_keys;     // placed on "disk": they stay in the file
  std::vector<TiedDuplicate> duplicates;
  std::vector<uint64_t> reserve_bytes;  // per device: the memory segments that `tensors` lie in
  uint64_t selected_bytes = 0;          // stored bytes of `tensors`
  uint64_t mapped_bytes = 0;
};

struct PlanOptions {
  bool map_host_tensors = true;  // tensors on "cpu" stay in their file where they can; else all are copied
};

// Cuts the placed keys into segments and extents. Pure; never blocks. `input` and `placement` belong together.
std::shared_ptr<const LoadPlan> BuildLoadPlan(const KeyReport& report, const PlacementInput& input,
                                              const Placement& placement, const PlanOptions& options = {});

// The part of `plan` that loads only `tensors` (indices into LoadPlan::tensors, ascending): the same devices and the
// same table of segments, so that every address stands, with extents, reserve_bytes and sums of its own. It compares no
// tied copies. Pure.
std::shared_ptr<const LoadPlan> SubPlan(const LoadPlan& plan, std::span<const uint32_t> tensors);

}  // namespace keyload
