#include "server/load/transfer.h"

#include <utility>

#include "server/base/error.h"
#include "server/load/tied_copies.h"
#include "server/load/transfer_run.h"

namespace keyload {
namespace {

std::vector<bool> UsedSegments(const LoadPlan& plan) {
  std::vector<bool> used(plan.segments.size());
  for (const PlannedTensor& tensor : plan.tensors) used[tensor.segment] = true;
  return used;
}

std::vector<std::shared_ptr<ShardReader>> OpenReaders(const LoadPlan& plan, const CheckpointIndex& index,
                                                      const ReaderFactory& make_reader) {
  std::vector<std::shared_ptr<ShardReader>> readers(index.shards().size());
  for (const Extent& extent : plan.extents) {
    if (readers[extent.shard] == nullptr) readers[extent.shard] = make_reader(index.shards()[extent.shard]);
  }
  return readers;
}

absl::Status CheckFilesRead(const CheckpointIndex& index, const std::vector<std::shared_ptr<ShardReader>>& readers,
                            StorageThreads* storage) {
  for (size_t i = 0; i < readers.size(); ++i) {
    if (readers[i] == nullptr) continue;
    const Shard& shard = index.shards()[i];
    const StorageThreads::Operation touching(StorageThreads::MountOfFile(storage, shard.resolved));
    KEYLOAD_RETURN_IF_ERROR(CheckUnchanged(shard, "while it was read"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<MemoryReservation>> ReserveForPlan(const LoadPlan& plan, const DeviceSet& devices) {
  std::vector<MemoryReservation> reservations(plan.devices.size());
  for (size_t i = 0; i < plan.devices.size(); ++i) {
    Device* const device = devices.Find(plan.devices[i]);
    if (device == nullptr || plan.reserve_bytes[i] == 0) continue;  // "disk" has no memory
    KEYLOAD_ASSIGN_OR_RETURN(reservations[i], device->account().Reserve(plan.reserve_bytes[i]));
  }
  return reservations;
}

absl::StatusOr<std::vector<Segment>> AllocateSegments(const LoadPlan& plan, const DeviceSet& devices,
                                                      std::vector<MemoryReservation>& reservations) {
  const std::vector<bool> used = UsedSegments(plan);
  const std::vector<bool> filled = FilledSegments(plan);
  std::vector<Segment> segments;
  segments.reserve(plan.segments.size());
  for (size_t i = 0; i < plan.segments.size(); ++i) {
    const PlannedSegment& planned = plan.segments[i];
    Segment segment = {
        .kind = planned.kind, .device = devices.Find(plan.devices[planned.device]), .shard = planned.shard};
    if (used[i] && planned.kind == SegmentKind::kMemory) {
      KEYLOAD_ASSIGN_OR_RETURN(segment.memory,
                               segment.device->Allocate(reservations[planned.device], planned.bytes,
                                                        filled[i] ? Contents::kUnspecified : Contents::kZeroed));
    }
    segments.push_back(std::move(segment));
  }
  ZeroPadding(plan, filled, segments);
  return segments;
}

absl::StatusOr<TransferResult> Transfer(const LoadPlan& plan, const CheckpointIndex& index,
                                        std::vector<Segment> segments, const TransferResources& resources,
                                        const RequestContext& context, ProgressFunction progress, LoadReport& report) {
  TransferResult result = {.segments = std::move(segments), .readers = {}, .equal_duplicates = {}, .conflicts = {}};
  result.readers = OpenReaders(plan, index, resources.make_reader);
  // A mount that does not answer holds up this thread and those that read.
  StorageThreads::NotedMount mount;
  if (!plan.extents.empty()) {
    mount = StorageThreads::MountOfFile(resources.storage, index.shards()[plan.extents.front().shard].resolved);
  }
  const StorageThreads::Operation waiting(mount, StorageThreads::Operation::Kind::kWaits);
  TransferRun run(plan, resources, context, result.segments, result.readers);
  const absl::Status status = run.Run(progress);
  for (const Segment& segment : result.segments) {
    if (segment.memory != nullptr) segment.memory->Settle();
  }
  run.Measure(index, report);
  if (!status.ok()) {
    // A reader meets a file that shrank as a truncated one; what happened is that it changed.
    const absl::Status unchanged = CheckFilesRead(index, result.readers, resources.storage);
    return ErrorReason(status) == Reason::kCheckpointTruncated && !unchanged.ok() ? unchanged : status;
  }
  ReadCounts compared;
  KEYLOAD_RETURN_IF_ERROR(CompareTiedCopies(plan, context, result, compared));
  report.bytes.read += compared.read;
  report.bytes.cached += compared.cached;
  KEYLOAD_RETURN_IF_ERROR(CheckFilesRead(index, result.readers, resources.storage));
  report.bytes.mapped = plan.mapped_bytes;
  return result;
}

}  // namespace keyload
