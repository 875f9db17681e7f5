#include "server/plan/segments.h"

#include <algorithm>

#include "server/base/rounding.h"
#include "server/checkpoint/dtype.h"
#include "server/checkpoint/natural_order.h"
#include "server/plan/extents.h"

namespace keyload {
namespace {

constexpr uint64_t kRunAlignment = 256;    // what CUDA guarantees of an allocation, and more than any element needs
constexpr uint64_t kVectorAlignment = 16;  // of every tensor on devices other than cpu
constexpr uint64_t kSegmentTarget = 2ull << 20;  // below it, neighbouring units share a segment

uint64_t Alignment(const PlannedTensor& tensor, bool host) {
  return std::max<uint64_t>(DTypeAlignment(tensor.dtype), host ? 1 : kVectorAlignment);
}

}  // namespace

std::string_view EvictionUnit(std::string_view key) {
  const size_t name = key.rfind('.');
  if (name == std::string_view::npos) return key.substr(0, 0);
  const std::string_view parent = key.substr(0, name);
  size_t end = name;
  while (true) {
    const size_t dot = end == 0 ? std::string_view::npos : parent.rfind('.', end - 1);
    const size_t start = dot == std::string_view::npos ? 0 : dot + 1;
    if (IsNumberComponent(parent.substr(start, end - start))) return parent.substr(0, end);
    if (dot == std::string_view::npos) return parent;
    end = dot;
  }
}

void SegmentLayout::Add(PlannedTensor& tensor, std::string_view key, uint16_t device, bool alone) {
  if (alone) {
    tensor.segment = static_cast<uint32_t>(units_.size());
    units_.push_back({.device = device, .alone = true});
  } else {
    tensor.segment = UnitOf(EvictionUnit(key), device);
  }
  units_[tensor.segment].bytes += tensor.bytes;
}

uint32_t SegmentLayout::UnitOf(std::string_view name, uint16_t device) {
  // Neighbours in the file are mostly of one unit.
  if (last_unit_ >= 0 && name == last_name_ && units_[last_unit_].device == device) {
    return static_cast<uint32_t>(last_unit_);
  }
  const auto [it, added] = unit_of_[device].try_emplace(name, static_cast<uint32_t>(units_.size()));
  if (added) units_.push_back({.device = device});
  last_name_ = name;
  last_unit_ = it->second;
  return it->second;
}

void SegmentLayout::GiveSegments() {
  std::vector<int64_t> shared(plan_.devices.size(), -1);  // per device: the segment that small units share now
  for (Unit& unit : units_) {
    const bool small = !unit.alone && unit.bytes < kSegmentTarget;
    int64_t segment = small ? shared[unit.device] : -1;
    if (segment < 0) {
      segment = static_cast<int64_t>(plan_.segments.size());
      plan_.segments.push_back({.kind = SegmentKind::kMemory, .device = unit.device});
    }
    plan_.segments[segment].tensor_bytes += unit.bytes;
    if (small) shared[unit.device] = plan_.segments[segment].tensor_bytes < kSegmentTarget ? segment : -1;
    unit.segment = static_cast<uint32_t>(segment);
  }
}

void SegmentLayout::LayOut(std::span<PlannedTensor> tensors) {
  const size_t first_segment = plan_.segments.size();
  GiveSegments();
  for (PlannedTensor& tensor : tensors) tensor.segment = units_[tensor.segment].segment;
  for (size_t begin = 0; begin < tensors.size();) {
    const bool host = plan_.devices[plan_.segments[tensors[begin].segment].device] == "cpu";
    uint64_t bytes = tensors[begin].bytes;
    size_t end = begin + 1;
    while (end < tensors.size() && MayShareRun(tensors[end - 1], tensors[end]) &&
           bytes % Alignment(tensors[end], host) == 0) {
      bytes += tensors[end++].bytes;
    }
    Place(tensors.subspan(begin, end - begin));
    begin = end;
  }
  for (size_t i = first_segment; i < plan_.segments.size(); ++i) {
    plan_.segments[i].bytes = RoundUp(plan_.segments[i].bytes, kRunAlignment);
  }
}

void SegmentLayout::Place(std::span<PlannedTensor> run) {
  PlannedSegment& segment = plan_.segments[run.front().segment];
  uint64_t offset = RoundUp(segment.bytes, kRunAlignment);
  for (PlannedTensor& tensor : run) {
    tensor.segment_offset = offset;
    offset += tensor.bytes;
  }
  segment.bytes = offset;
}

}  // namespace keyload
