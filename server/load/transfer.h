#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "server/base/executor.h"
#include "server/base/request_context.h"
#include "server/device/device.h"
#include "server/io/byte_budget.h"
#include "server/io/shard_reader.h"
#include "server/io/storage_threads.h"
#include "server/plan/load_plan.h"
#include "server/report/load_report.h"
#include "server/store/resident_model.h"

namespace keyload {

struct LoadProgress {
  std::string phase;
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
  uint64_t tensors_done = 0;
  uint64_t tensors_total = 0;
  uint32_t queue_position = 0;  // 1: the next; while phase is "queue" or "memory"
};
using ProgressFunction = absl::FunctionRef<void(const LoadProgress&)>;
inline constexpr absl::Duration kProgressInterval = absl::Milliseconds(100);

// Opens a reader over one shard; tests put faults behind it.
using ReaderFactory = std::function<std::unique_ptr<ShardReader>(const Shard&)>;

// What all loads share. Everything outlives every load.
struct TransferResources {
  DeviceSet* devices = nullptr;
  Executor* io = nullptr;   // runs block after block
  size_t workers = 0;       // threads of `io` that one load may take; 0: all of them
  size_t cold_workers = 8;  // the same while bytes come from a disk: as many reads are on their way to it
  ByteBudget* scratch = nullptr;
  ReaderFactory make_reader;
  StorageThreads* storage = nullptr;  // where transfers that wait for a mount are noted; null: nowhere

  size_t WarmWorkers() const { return workers > 0 ? workers : io->threads(); }
  size_t MostWorkers() const { return std::max(WarmWorkers(), cold_workers); }
};

// Promises the plan's memory on every device, before the first read: one entry per LoadPlan::devices.
// DEVICE_OUT_OF_MEMORY leaves nothing behind.
absl::StatusOr<std::vector<MemoryReservation>> ReserveForPlan(const LoadPlan& plan, const DeviceSet& devices);

// The plan's segments: those that its tensors lie in are allocated out of `reservations`, the rest has no memory. They
// are 0 where the plan puts no tensor; those on "cpu" that it fills entirely hold anything elsewhere, so they must not
// be shown to anybody unless Transfer succeeds. DEVICE_OUT_OF_MEMORY leaves nothing behind.
absl::StatusOr<std::vector<Segment>> AllocateSegments(const LoadPlan& plan, const DeviceSet& devices,
                                                      std::vector<MemoryReservation>& reservations);

// What a transfer made and measured.
struct TransferResult {
  std::vector<Segment> segments;                      // as in the plan; those of equal tied copies are empty again
  std::vector<std::shared_ptr<ShardReader>> readers;  // per shard that was touched
  std::vector<TiedDuplicate> equal_duplicates;        // second copies that were dropped
  std::vector<TiedDuplicate> conflicts;               // second copies that differ and were kept
};

// Runs `plan` into `segments`: reads every extent block by block, converts, copies, waits for the devices, compares
// tied copies, and checks that no file changed meanwhile. Blocks; `progress` runs on the calling thread at most every
// kProgressInterval. The first error stops the rest; on every way out no copy is in flight. Writes bytes, busy, shards
// and devices of `report`, as far as it got.
// LOAD_CANCELLED, DEADLINE_EXCEEDED, DEVICE_OUT_OF_MEMORY, CHECKPOINT_TRUNCATED, CHECKPOINT_CHANGED, IO_ERROR.
absl::StatusOr<TransferResult> Transfer(const LoadPlan& plan, const CheckpointIndex& index,
                                        std::vector<Segment> segments, const TransferResources& resources,
                                        const RequestContext& context, ProgressFunction progress, LoadReport& report);

}  // namespace keyload
