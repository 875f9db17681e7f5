#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "server/base/mutex.h"
#include "server/load/blocks.h"
#include "server/load/slab_pool.h"
#include "server/load/transfer.h"

namespace keyload {

// The blocks of one load on their way: workers take them in order, devices complete them. Thread-safe unless said
// otherwise.
//
//   worker:  next block ─▶ read ─┬─▶ straight into host segments
//                                └─▶ slab ─▶ convert ─▶ Device::CopyAsync ─▶ done: slab back, block counted
class TransferRun {
 public:
  TransferRun(const LoadPlan& plan, const TransferResources& resources, const RequestContext& context,
              std::vector<Segment>& segments, const std::vector<std::shared_ptr<ShardReader>>& readers);

  // Starts the workers, waits for the last of them and for every copy, and reports progress meanwhile. The first error.
  absl::Status Run(ProgressFunction progress);
  // Adds what was measured. REQUIRES: Run returned.
  void Measure(const CheckpointIndex& index, LoadReport& report) const;

 private:
  // Bytes of one tensor inside one block.
  struct Piece {
    const PlannedTensor* tensor;
    uint64_t file_offset;
    uint64_t length;
    uint64_t target_offset;  // in the segment
    uint64_t target_length;
  };
  struct BlockState;  // a block whose copies are in flight
  struct ShardTotals {
    std::atomic<uint64_t> read = 0;
    std::atomic<int64_t> nanoseconds = 0;
  };
  // Written by the device's copy thread.
  struct DeviceTotals {
    std::atomic<uint64_t> copied = 0;
    std::atomic<int64_t> nanoseconds = 0;  // while at least one copy was on its way
    std::atomic<int64_t> last_done = 0;    // by the steady clock
  };

  void Work();
  absl::Status RunBlock(const Block& block);
  absl::Status ReadIntoSegments(const Block& block, ShardReader& reader);
  absl::Status ReadThroughSlab(const Block& block, ShardReader& reader);
  absl::Status Read(const Block& block, ShardReader& reader, std::span<const iovec> buffers);
  void StartCopy(const std::shared_ptr<BlockState>& state, const Piece& piece, std::span<const std::byte> source);
  std::vector<Piece> Pieces(const Block& block) const;
  bool GoesStraightToSegments(const Block& block) const;
  std::span<std::byte> HostTarget(const Piece& piece) const;
  void Fail(const absl::Status& status);
  void CountDone(const Block& block);
  LoadProgress Progress() const;
  static uint64_t SlabBytes(const LoadPlan& plan, uint64_t block_bytes);

  const LoadPlan& plan_;
  const TransferResources& resources_;
  const RequestContext& context_;
  std::vector<Segment>& segments_;
  const std::vector<std::shared_ptr<ShardReader>>& readers_;
  const std::vector<Block> blocks_;
  SlabPool slabs_;

  std::atomic<size_t> next_block_ = 0;
  std::atomic<bool> failed_ = false;
  std::atomic<uint64_t> bytes_done_ = 0;
  std::atomic<uint64_t> tensors_done_ = 0;
  std::atomic<uint64_t> read_bytes_ = 0;
  std::atomic<uint64_t> cached_bytes_ = 0;
  std::atomic<int64_t> read_ns_ = 0;
  std::atomic<int64_t> convert_ns_ = 0;
  std::vector<ShardTotals> shard_totals_;
  std::vector<DeviceTotals> device_totals_;

  Mutex mutex_;
  CondVar idle_;
  size_t outstanding_ ABSL_GUARDED_BY(mutex_) = 0;  // workers and copies
  absl::Status first_error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
