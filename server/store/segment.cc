#include "server/store/segment.h"

#include <cstddef>
#include <cstring>
#include <span>

namespace keyload {

std::vector<bool> FilledSegments(const LoadPlan& plan) {
  std::vector<uint64_t> bytes(plan.segments.size());
  for (const TensorRun& run : plan.runs) bytes[run.segment] += run.bytes;
  std::vector<bool> filled(plan.segments.size());
  for (size_t i = 0; i < filled.size(); ++i) {
    filled[i] = bytes[i] == plan.segments[i].tensor_bytes && plan.devices[plan.segments[i].device] == "cpu";
  }
  return filled;
}

void ZeroPadding(const LoadPlan& plan, const std::vector<bool>& filled, const std::vector<Segment>& segments) {
  std::vector<std::span<std::byte>> open(segments.size());  // what is left of each, from its padding or next tensor on
  for (size_t i = 0; i < segments.size(); ++i) {
    DeviceMemory* const memory = segments[i].memory.get();
    if (filled[i] && memory != nullptr && !memory->is_fresh()) open[i] = memory->host();
  }
  const auto zero = [](std::span<std::byte> bytes) {
    if (!bytes.empty()) std::memset(bytes.data(), 0, bytes.size());
  };
  for (const PlannedTensor& tensor : plan.tensors) {  // those of one segment ascend in it, unlike runs
    std::span<std::byte>& rest = open[tensor.segment];
    if (rest.empty()) continue;
    const uint64_t padding = tensor.segment_offset - (plan.segments[tensor.segment].bytes - rest.size());
    zero(rest.first(padding));
    rest = rest.subspan(padding + tensor.bytes);
  }
  for (const std::span<std::byte> rest : open) zero(rest);
}

}  // namespace keyload
