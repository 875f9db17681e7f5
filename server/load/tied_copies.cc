#include "server/load/tied_copies.h"

#include <algorithm>
#include <cstring>

#include "server/base/error.h"

namespace keyload {
namespace {

constexpr uint64_t kCompareBytes = 1ull << 20;

absl::Status ReadBack(const TransferResult& result, const PlannedTensor& tensor, uint64_t offset,
                      std::span<std::byte> bytes, ReadCounts& counts) {
  const Segment& segment = result.segments[tensor.segment];
  if (segment.kind == SegmentKind::kMemory) {
    return segment.device->Read(*segment.memory, tensor.segment_offset + offset, bytes);
  }
  const iovec buffer = {bytes.data(), bytes.size()};
  return result.readers[tensor.shard]->ReadVector(tensor.file_offset + offset, {&buffer, 1}, counts);
}

absl::StatusOr<bool> Equal(const TransferResult& result, const PlannedTensor& a, const PlannedTensor& b,
                           const RequestContext& context, ReadCounts& counts) {
  if (a.dtype != b.dtype || a.bytes != b.bytes) return false;
  std::vector<std::byte> left(std::min(a.bytes, kCompareBytes));
  std::vector<std::byte> right(left.size());
  for (uint64_t offset = 0; offset < a.bytes; offset += left.size()) {
    KEYLOAD_RETURN_IF_ERROR(context.Check());
    const uint64_t length = std::min<uint64_t>(left.size(), a.bytes - offset);
    KEYLOAD_RETURN_IF_ERROR(ReadBack(result, a, offset, std::span(left).first(length), counts));
    KEYLOAD_RETURN_IF_ERROR(ReadBack(result, b, offset, std::span(right).first(length), counts));
    if (std::memcmp(left.data(), right.data(), length) != 0) return false;
  }
  return true;
}

}  // namespace

absl::Status CompareTiedCopies(const LoadPlan& plan, const RequestContext& context, TransferResult& result,
                               ReadCounts& counts) {
  for (const TiedDuplicate& duplicate : plan.duplicates) {
    const PlannedTensor& tensor = plan.tensors[duplicate.tensor];
    KEYLOAD_ASSIGN_OR_RETURN(const bool equal,
                             Equal(result, tensor, plan.tensors[duplicate.provider], context, counts));
    if (!equal) {
      result.conflicts.push_back(duplicate);
      continue;
    }
    result.equal_duplicates.push_back(duplicate);
    if (result.segments[tensor.segment].kind == SegmentKind::kMemory) result.segments[tensor.segment].memory.reset();
  }
  return absl::OkStatus();
}

}  // namespace keyload
