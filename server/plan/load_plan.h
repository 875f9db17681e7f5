#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
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
//   kDirect    the same past the page cache; no plan says so: it is chosen for what turns out to be cold
enum class Engine : uint8_t { kMapped, kBuffered, kDirect };
std::string_view EngineName(Engine engine);
// Several engines, a bit of value 1 << Engine for each: "buffered+direct", in the order of Engine.
std::string EngineNames(uint32_t engines);

enum class SegmentKind : uint8_t { kFile, kMemory };

// One eviction unit on one device: the rest of a layer, one expert, or several small modules that are neighbours in the
// file, at least 2 MiB where the model allows.
struct PlannedSegment {
  SegmentKind kind = SegmentKind::kMemory;
  uint16_t device = 0;        // index into LoadPlan::devices
  uint32_t shard = 0;         // kFile only: the whole shard is the segment
  uint64_t bytes = 0;         // kMemory: to allocate, padding included; kFile: the shard's size
  uint64_t tensor_bytes = 0;  // kMemory: of all tensors that have their place in it; the rest is padding
};

// One key's place, and where in the files its bytes are. A key of several parts has them in LoadPlan::parts; shard and
// file_offset are those of the first then, stored_bytes of all.
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
  uint32_t first_part = 0;  // index into LoadPlan::parts
  uint32_t part_count = 0;  // 0: read as it is
};

// The order of LoadPlan::tensors. Where two begin at one offset, the one without bytes comes first, so that ends ascend
// as well.
inline auto ReadingOrder(SegmentKind kind, const PlannedTensor& tensor) {
  return std::tuple(kind, tensor.shard, tensor.file_offset, tensor.stored_bytes);
}

// Tensors, or parts of them, that lie one behind the other both in their file and in their segment: they are read,
// converted and copied as if they were one. All of them have one stored and one wanted dtype if any is converted; their
// dtypes say nothing else.
struct TensorRun {
  uint32_t shard = 0;
  uint32_t segment = 0;
  uint64_t file_offset = 0;
  uint64_t stored_bytes = 0;
  uint64_t segment_offset = 0;
  uint64_t bytes = 0;       // in the segment
  uint32_t first_read = 0;  // index into LoadPlan::reads()
  uint32_t read_count = 0;
  DType dtype = DType::kF32;
  DType stored_dtype = DType::kF32;

  bool converts() const { return dtype != stored_dtype; }
};

// One contiguous byte range of one shard, and the runs that lie in it.
//
//   file    ....[ tensor a ][ tensor b ]..gap..[ tensor c ]....
//   runs        |<------------------->|        |<------->|
//   extent      |<------------------ length ------------->|
struct Extent {
  uint32_t shard = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  uint32_t first_run = 0;
  uint32_t run_count = 0;
  Engine engine = Engine::kBuffered;
};

// A second stored copy of a tied tensor. Both are loaded and compared after reading; an equal one is dropped.
struct TiedDuplicate {
  uint32_t tensor = 0;    // index into LoadPlan::tensors; alone in its segment
  uint32_t provider = 0;  // index into LoadPlan::tensors
};

// Everything decided before a tensor byte is read. Immutable.
struct LoadPlan {
  // What is read in one piece each, by ReadingOrder: the tensors, with the parts of those that have several.
  std::span<const PlannedTensor> reads() const { return sorted_reads.empty() ? tensors : sorted_reads; }
  // The parts of one of `tensors`, in the order of its bytes: itself unless it has several.
  std::span<const PlannedTensor> PartsOf(const PlannedTensor& tensor) const {
    if (tensor.part_count == 0) return {&tensor, 1};
    return std::span(parts).subspan(tensor.first_part, tensor.part_count);
  }

  std::vector<std::string> devices;
  std::vector<PlannedSegment> segments;
  std::vector<PlannedTensor> tensors;       // by ReadingOrder; those of one segment ascend in it
  std::vector<PlannedTensor> parts;         // of tensors with several, each as if it were a tensor, tensor by tensor
  std::vector<PlannedTensor> sorted_reads;  // empty where no tensor has several parts
  std::vector<TensorRun> runs;              // the order of reads(), which they cover without hole or overlap
  std::vector<Extent> extents;              // the same order; they cover the runs that have bytes
  std::vector<uint32_t> lazy_keys;          // placed on "disk": they stay in the file
  std::vector<TiedDuplicate> duplicates;
  std::vector<uint64_t> reserve_bytes;  // per device: the memory segments that `tensors` lie in
  uint64_t selected_bytes = 0;          // stored bytes of `tensors`
  uint64_t mapped_bytes = 0;
};

// A load reads at most 1/kOverReadShare more than the stored bytes of its tensors. Gaps between extents may take that
// but for 1/kRoundingShare, which pays for whole sectors at the ends of direct reads.
inline constexpr uint64_t kOverReadShare = 20;
inline constexpr uint64_t kRoundingShare = 128;

struct PlanOptions {
  bool map_host_tensors = true;  // tensors on "cpu" stay in their file where they can; else all are copied
  // False for a shard that is not mapped in any case, such as one on a network file system. Empty: all may be.
  std::function<bool(const Shard&)> may_map_shard = {};
};

// Cuts the placed keys into segments, runs and extents. Pure; never blocks. `input` and `placement` belong together.
//
// Memory segments: tensors come in the order of the file. Neighbours in the file are neighbours in the segment, with
// nothing between them, so that they make one run. A run starts at a multiple of 256. Elements are aligned as their
// dtype needs, and to 16 bytes on other devices than "cpu", whose vector loads and matrix instructions want that; a
// tensor that would not be where it is in its run starts a run of its own. A tensor of several parts is in no file as
// it is: it is never mapped, starts at a multiple of 256 and has its parts one behind the other.
std::shared_ptr<const LoadPlan> BuildLoadPlan(const KeyReport& report, const PlacementInput& input,
                                              const Placement& placement, const PlanOptions& options = {});

// The part of `plan` that loads only `tensors` (indices into LoadPlan::tensors, ascending): the same devices and the
// same table of segments, so that every address stands, with extents, reserve_bytes and sums of its own. It compares no
// tied copies. Pure.
std::shared_ptr<const LoadPlan> SubPlan(const LoadPlan& plan, std::span<const uint32_t> tensors);

}  // namespace keyload
