#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/load/block_piece.h"
#include "server/load/blocks.h"
#include "server/load/measures.h"
#include "server/load/slab_pool.h"
#include "server/load/transfer.h"

namespace keyload {

// The blocks of one load on their way: workers take them in order, devices complete them. Thread-safe unless said
// otherwise. Costs are per block and run, none per tensor.
//
//   worker:  next block ─▶ read ─┬─▶ straight into host segments
//                                └─▶ slab ─▶ convert ─▶ Device::CopyAsync ─▶ done: slab back, block counted
//   read:    from the page cache ─▶ else past it to a slab, by whole sectors ─▶ else through it
class TransferRun {
 public:
  TransferRun(const LoadPlan& plan, const TransferResources& resources, const RequestContext& context,
              std::vector<Segment>& segments, const std::vector<std::shared_ptr<ShardReader>>& readers);

  // Starts the workers, waits for those that have begun and for every copy, and reports progress meanwhile. The first
  // error; LOAD_QUEUE_FULL when not one worker found room.
  absl::Status Run(ProgressFunction progress);
  // Adds what was measured. REQUIRES: Run returned.
  void Measure(const CheckpointIndex& index, LoadReport& report) const;

 private:
  enum class Way { kStraight, kFresh, kSlab };
  struct Worker;      // what one thread reuses from block to block
  struct BlockState;  // a block whose copies are in flight

  absl::Status RunWorkers(ProgressFunction progress);
  bool StartWorker(size_t limit);
  void Work(bool extra);
  void LeaveWorker() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Workers that have not begun yet never will.
  void TakeBackTurns() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The next block, and with it in `ahead` the one that is kReadAheadBlocks later; false after the last.
  bool TakeBlock(Block& block, std::optional<Block>& ahead);
  absl::Status RunBlock(const Block& block, Worker& worker);
  absl::Status Populate(const Block& block);
  absl::Status ReadStraight(const Block& block, Worker& worker);
  absl::Status ReadFresh(const Block& block, Worker& worker);
  absl::Status ReadThroughSlab(const Block& block, Worker& worker);
  absl::StatusOr<std::span<std::byte>> ReadColdTo(const Block& block, const Worker& worker, std::span<std::byte> slab);
  absl::StatusOr<bool> ReadCached(const Block& block, uint64_t offset, std::span<const iovec> buffers, Worker& worker);
  absl::Status ReadColdThroughSlab(const Block& block, const Worker& worker);
  bool ReadDirect(const Block& block, std::span<std::byte> slab);
  absl::Status ReadThroughCache(const Block& block, uint64_t offset, std::span<const iovec> buffers);
  absl::Status Deliver(const std::shared_ptr<BlockState>& state, std::span<const std::byte> stored,
                       std::span<std::byte> converted, std::span<const BlockPiece> pieces);
  void StartCopy(const std::shared_ptr<BlockState>& state, const BlockPiece& piece, std::span<const std::byte> source);
  // The block's pieces into `pieces`, and how they get to their place: by reads straight to it, by writes where some of
  // the memory has no pages yet, or through a slab.
  Way FindPieces(const Block& block, std::vector<BlockPiece>& pieces) const;
  ShardReader& ReaderOf(const Block& block) const { return *readers_[plan_.extents[block.extent].shard]; }
  void Fail(const absl::Status& status);
  void CountDone(const Block& block);
  LoadProgress Progress() const;

  const LoadPlan& plan_;
  const TransferResources& resources_;
  const RequestContext& context_;
  std::vector<Segment>& segments_;
  const std::vector<std::shared_ptr<ShardReader>>& readers_;
  SlabPool slabs_;
  TransferMeasures measures_;

  std::atomic<bool> failed_ = false;
  std::atomic<uint64_t> bytes_done_ = 0;
  std::atomic<uint64_t> tensors_done_ = 0;

  Mutex cut_mutex_;
  BlockCutter cutter_ ABSL_GUARDED_BY(cut_mutex_);
  std::deque<Block> next_blocks_ ABSL_GUARDED_BY(cut_mutex_);
  uint64_t cut_bytes_ ABSL_GUARDED_BY(cut_mutex_) = 0;  // wanted ones, of the blocks taken

  Mutex mutex_;
  CondVar idle_;
  size_t outstanding_ ABSL_GUARDED_BY(mutex_) = 0;  // workers and copies
  size_t workers_ ABSL_GUARDED_BY(mutex_) = 0;      // part of it
  // Of workers that are queued: true once one has begun, or is not to begin any more.
  std::vector<std::shared_ptr<std::atomic<bool>>> turns_ ABSL_GUARDED_BY(mutex_);
  bool turns_are_over_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status first_error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace keyload
