#include "server/load/transfer_run.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "server/base/error.h"
#include "server/base/no_throw.h"
#include "server/base/rounding.h"
#include "server/tensor/convert.h"

namespace keyload {
namespace {

using Clock = TransferMeasures::Clock;

constexpr BlockLimits kBlockLimits;
constexpr uint64_t kWorkerScratch = 256ull << 10;
constexpr size_t kReadAheadBlocks = 8;  // as many as are asked of the disk at a time

}  // namespace

struct TransferRun::Worker {
  std::vector<BlockPiece> pieces;
  std::vector<iovec> buffers;
  ScratchMemory scratch;  // kWorkerScratch bytes: gaps land here, over one another, and what is written to fresh memory
  std::optional<Block> ahead;  // a later block than the one in hand
  bool cold = false;           // the last block was not in the page cache
};

// Alive until its last copy is done; then the slab goes back and the block counts.
struct TransferRun::BlockState {
  BlockState(TransferRun& owner, const Block& its_block, std::span<std::byte> its_slab)
      : run(owner), block(its_block), slab(its_slab) {}
  ~BlockState() {
    run.slabs_.PutBack(slab);
    if (!run.failed_) run.CountDone(block);
  }
  TransferRun& run;
  const Block block;
  std::span<std::byte> slab;
};

TransferRun::TransferRun(const LoadPlan& plan, const TransferResources& resources, const RequestContext& context,
                         std::vector<Segment>& segments, const std::vector<std::shared_ptr<ShardReader>>& readers)
    : plan_(plan),
      resources_(resources),
      context_(context),
      segments_(segments),
      readers_(readers),
      slabs_(*resources.scratch, SlabBytes(plan, kBlockLimits), resources.MostWorkers() + 2),
      measures_(plan, readers.size()),
      cutter_(plan, kBlockLimits) {}

absl::Status TransferRun::Run(ProgressFunction progress) {
  absl::Status status = NoThrow([&] { return RunWorkers(progress); });
  if (status.ok()) return status;
  // Where this thread had no memory, workers and copies may still be at it: they use all that the caller owns.
  Fail(status);
  MutexLock lock(mutex_);
  TakeBackTurns();
  while (outstanding_ > 0) idle_.Wait(mutex_);
  return status;
}

absl::Status TransferRun::RunWorkers(ProgressFunction progress) {
  uint64_t most_blocks = 0;
  for (const Extent& extent : plan_.extents) most_blocks += 1 + extent.length / kSectorBytes;
  const size_t workers = std::min<uint64_t>(resources_.WarmWorkers(), most_blocks);
  for (size_t i = 0; i < workers; ++i) {
    if (StartWorker(workers)) continue;
    if (i == 0) return TooManyWaiting();
    break;
  }
  while (true) {
    {
      MutexLock lock(mutex_);
      if (outstanding_ > 0) idle_.WaitFor(mutex_, absl::ToChronoMilliseconds(kProgressInterval));
      if (failed_) TakeBackTurns();
      if (outstanding_ == 0 && !first_error_.ok()) return first_error_;
      if (outstanding_ == 0) break;
    }
    progress(Progress());
    if (const absl::Status status = context_.Check(); !status.ok()) Fail(status);
  }
  KEYLOAD_RETURN_IF_ERROR(context_.Check());
  MutexLock lock(cut_mutex_);
  if (cut_bytes_ == plan_.selected_bytes) return absl::OkStatus();
  return MakeError(Reason::kInternal, "the blocks of a load do not cover its tensors");
}

bool TransferRun::TakeBlock(Block& block, std::optional<Block>& ahead) {
  MutexLock lock(cut_mutex_);
  while (next_blocks_.size() <= kReadAheadBlocks) {
    const std::optional<Block> next = cutter_.Next();
    if (!next) break;
    next_blocks_.push_back(*next);
  }
  if (next_blocks_.empty()) return false;
  block = next_blocks_.front();
  ahead.reset();
  if (next_blocks_.size() > kReadAheadBlocks) ahead = next_blocks_.back();
  next_blocks_.pop_front();
  cut_bytes_ += block.wanted_bytes;
  return true;
}

LoadProgress TransferRun::Progress() const {
  return {.phase = "transfer",
          .bytes_done = bytes_done_,
          .bytes_total = plan_.selected_bytes,
          .tensors_done = tensors_done_,
          .tensors_total = plan_.reads().size()};
}

// Starts one more, unless `limit` are at work or there is nothing left to do; false when the executor refuses.
bool TransferRun::StartWorker(size_t limit) {
  bool extra = false;
  const auto turn = std::make_shared<std::atomic<bool>>(false);
  {
    MutexLock lock(mutex_);
    if (workers_ >= limit || turns_are_over_) return true;
    extra = workers_ >= resources_.WarmWorkers();
    std::erase_if(turns_, [](const auto& one) { return one->load(); });
    turns_.push_back(turn);  // first, as it can throw
    ++workers_;
    ++outstanding_;
  }
  const auto work = [this, extra, turn] {
    if (!turn->exchange(true)) Work(extra);  // else the load may have ended, and this with it
  };
  if (resources_.io->TrySubmit(work)) return true;
  MutexLock lock(mutex_);
  if (!turn->exchange(true)) LeaveWorker();
  return false;
}

void TransferRun::TakeBackTurns() {
  turns_are_over_ = true;
  for (const auto& turn : turns_) {
    if (!turn->exchange(true)) LeaveWorker();
  }
  turns_.clear();
}

void TransferRun::LeaveWorker() {
  --workers_;
  if (--outstanding_ == 0) idle_.NotifyAll();
}

// An `extra` worker is there to keep more reads on their way to a disk, and ends where there is nothing cold to read.
void TransferRun::Work(bool extra) {
  bool more = true;
  // An exception leaves nothing behind but the error: what a block holds goes back as it is left.
  const absl::Status status = NoThrow([&]() -> absl::Status {
    Worker worker;
    Block block;
    while (!failed_ && (more = TakeBlock(block, worker.ahead))) {
      worker.cold = false;
      KEYLOAD_RETURN_IF_ERROR(context_.Check());
      KEYLOAD_RETURN_IF_ERROR(RunBlock(block, worker));
      if (extra && !worker.cold) break;
    }
    return absl::OkStatus();
  });
  if (!status.ok()) Fail(status);
  MutexLock lock(mutex_);
  if (failed_ || !more) TakeBackTurns();
  LeaveWorker();
}

void TransferRun::Fail(const absl::Status& status) {
  MutexLock lock(mutex_);
  failed_ = true;
  if (first_error_.ok()) first_error_ = status;
}

void TransferRun::CountDone(const Block& block) {
  bytes_done_ += block.wanted_bytes;
  tensors_done_ += block.tensors;
}

absl::Status TransferRun::RunBlock(const Block& block, Worker& worker) {
  if (plan_.extents[block.extent].engine == Engine::kMapped) {
    KEYLOAD_RETURN_IF_ERROR(Populate(block));
  } else {
    if (worker.scratch == nullptr) {
      KEYLOAD_ASSIGN_OR_RETURN(worker.scratch, AllocateScratch(kWorkerScratch));
    }
    const Way way = FindPieces(block, worker.pieces);
    if (way == Way::kSlab) return ReadThroughSlab(block, worker);
    KEYLOAD_RETURN_IF_ERROR(way == Way::kFresh ? ReadFresh(block, worker) : ReadStraight(block, worker));
  }
  CountDone(block);
  return absl::OkStatus();
}

TransferRun::Way TransferRun::FindPieces(const Block& block, std::vector<BlockPiece>& pieces) const {
  pieces.clear();
  bool on_host = true;  // as it is stored
  bool fresh = false;
  for (uint32_t i = block.first_run; i < block.end_run; ++i) {
    const TensorRun& run = plan_.runs[i];
    const uint64_t begin = std::max(run.file_offset, block.offset);
    const uint64_t end = std::min(run.file_offset + run.stored_bytes, block.offset + block.length);
    if (begin >= end) continue;
    const auto scaled = [&](uint64_t bytes) {
      return run.converts() ? bytes / (DTypeBits(run.stored_dtype) / 8) * (DTypeBits(run.dtype) / 8) : bytes;
    };
    DeviceMemory& memory = *segments_[run.segment].memory;
    BlockPiece piece = {.run = &run,
                        .file_offset = begin,
                        .length = end - begin,
                        .target_offset = run.segment_offset + scaled(begin - run.file_offset),
                        .target_length = scaled(end - begin),
                        .memory = &memory,
                        .target = memory.host()};
    if (!piece.target.empty()) piece.target = piece.target.subspan(piece.target_offset, piece.target_length);
    on_host = on_host && !run.converts() && !piece.target.empty();
    fresh = fresh || memory.is_fresh();
    pieces.push_back(piece);
  }
  return !on_host ? Way::kSlab : fresh ? Way::kFresh : Way::kStraight;
}

absl::Status TransferRun::Populate(const Block& block) {
  const auto start = Clock::now();
  ReadCounts counts;
  const absl::Status status = ReaderOf(block).Populate(block.offset, block.length, counts);
  measures_.AddRead(plan_.extents[block.extent].shard, Engine::kMapped, counts, start);
  return status;
}

absl::Status TransferRun::ReadStraight(const Block& block, Worker& worker) {
  worker.buffers.clear();
  uint64_t position = block.offset;
  for (const BlockPiece& piece : worker.pieces) {
    while (position < piece.file_offset) {
      const uint64_t gap = std::min(piece.file_offset - position, kWorkerScratch);
      worker.buffers.push_back({worker.scratch.get(), gap});
      position += gap;
    }
    worker.buffers.push_back({piece.target.data(), piece.target.size()});
    position += piece.length;
  }
  KEYLOAD_ASSIGN_OR_RETURN(const bool cached, ReadCached(block, block.offset, worker.buffers, worker));
  return cached ? absl::OkStatus() : ReadColdThroughSlab(block, worker);
}

// What is cached goes through scratch memory that stays in the cache of the core.
absl::Status TransferRun::ReadFresh(const Block& block, Worker& worker) {
  const uint64_t end = block.offset + block.length;
  for (uint64_t position = block.offset; position < end; position += kWorkerScratch) {
    const std::span<std::byte> bytes(worker.scratch.get(), std::min(kWorkerScratch, end - position));
    const iovec buffer = {bytes.data(), bytes.size()};
    KEYLOAD_ASSIGN_OR_RETURN(const bool cached, ReadCached(block, position, {&buffer, 1}, worker));
    if (!cached) {
      Block rest = block;
      rest.offset = position;
      rest.length = end - position;
      rest.wanted_bytes -= std::min(rest.wanted_bytes, position - block.offset);
      return ReadColdThroughSlab(rest, worker);
    }
    KEYLOAD_RETURN_IF_ERROR(WriteToHost(position, bytes, worker.pieces));
  }
  return absl::OkStatus();
}

// Direct reads in place would need the file's alignment in the segment, and were not clearly faster.
absl::Status TransferRun::ReadColdThroughSlab(const Block& block, const Worker& worker) {
  KEYLOAD_ASSIGN_OR_RETURN(const std::span<std::byte> slab, slabs_.Take(context_));
  const absl::Cleanup put_back = [&] { slabs_.PutBack(slab); };
  KEYLOAD_ASSIGN_OR_RETURN(const std::span<std::byte> stored, ReadColdTo(block, worker, slab));
  return WriteToHost(block.offset, stored, worker.pieces);
}

absl::Status TransferRun::ReadThroughSlab(const Block& block, Worker& worker) {
  KEYLOAD_ASSIGN_OR_RETURN(const std::span<std::byte> slab, slabs_.Take(context_));
  std::shared_ptr<BlockState> state;
  const absl::Status made = NoThrow([&] { state = std::make_shared<BlockState>(*this, block, slab); });
  if (!made.ok()) slabs_.PutBack(slab);
  KEYLOAD_RETURN_IF_ERROR(made);
  std::span<std::byte> stored = slab.first(block.length);
  const iovec buffer = {stored.data(), stored.size()};
  const auto read = [&]() -> absl::Status {
    KEYLOAD_ASSIGN_OR_RETURN(const bool cached, ReadCached(block, block.offset, {&buffer, 1}, worker));
    if (!cached) {
      KEYLOAD_ASSIGN_OR_RETURN(stored, ReadColdTo(block, worker, slab));
    }
    return Deliver(state, stored, slab.subspan(kBlockLimits.buffered_bytes), worker.pieces);
  };
  absl::Status status = NoThrow(read);
  if (!status.ok()) failed_ = true;  // before the state's end counts the block as done
  return status;
}

absl::StatusOr<bool> TransferRun::ReadCached(const Block& block, uint64_t offset, std::span<const iovec> buffers,
                                             Worker& worker) {
  const auto start = Clock::now();
  ReadCounts counts;
  absl::StatusOr<bool> cached = ReaderOf(block).ReadCached(offset, buffers, counts);
  worker.cold = cached.ok() && !*cached;
  if (worker.cold) {
    StartWorker(resources_.MostWorkers());  // a refusal only means fewer reads at a time
  } else {
    measures_.AddRead(plan_.extents[block.extent].shard, Engine::kBuffered, counts, start);
  }
  return cached;
}

// Reads a block, or the rest of one, that is not in the page cache; returns where in `slab` its bytes are.
absl::StatusOr<std::span<std::byte>> TransferRun::ReadColdTo(const Block& block, const Worker& worker,
                                                             std::span<std::byte> slab) {
  if (ReadDirect(block, slab)) return slab.subspan(block.offset - RoundDown(block.offset, kSectorBytes), block.length);
  if (worker.ahead && plan_.extents[worker.ahead->extent].engine != Engine::kMapped) {
    ReaderOf(*worker.ahead).WillNeed(worker.ahead->offset, worker.ahead->length);
  }
  const iovec buffer = {slab.data(), block.length};
  KEYLOAD_RETURN_IF_ERROR(ReadThroughCache(block, block.offset, {&buffer, 1}));
  return slab.first(block.length);
}

// Reads the whole sectors around `block` past the page cache; false when that is refused or adds too much.
bool TransferRun::ReadDirect(const Block& block, std::span<std::byte> slab) {
  const uint64_t begin = RoundDown(block.offset, kSectorBytes);
  const uint64_t end = block.offset + block.length;
  const iovec sectors = {slab.data(), RoundUp(end, kSectorBytes) - begin};
  if (sectors.iov_len - block.length > block.wanted_bytes / kRoundingShare) return false;
  const auto start = Clock::now();
  ReadCounts counts;
  const bool done = ReaderOf(block).ReadDirect(begin, {&sectors, 1}, end - begin, counts);
  if (done) measures_.AddRead(plan_.extents[block.extent].shard, Engine::kDirect, counts, start);
  return done;
}

absl::Status TransferRun::ReadThroughCache(const Block& block, uint64_t offset, std::span<const iovec> buffers) {
  const auto start = Clock::now();
  ReadCounts counts;
  const absl::Status status = ReaderOf(block).ReadVector(offset, buffers, counts);
  counts.cached = 0;  // it was not there a moment ago
  measures_.AddRead(plan_.extents[block.extent].shard, Engine::kBuffered, counts, start);
  return status;
}

absl::Status TransferRun::Deliver(const std::shared_ptr<BlockState>& state, std::span<const std::byte> stored,
                                  std::span<std::byte> converted, std::span<const BlockPiece> pieces) {
  for (const BlockPiece& piece : pieces) {
    std::span<const std::byte> source = stored.subspan(piece.file_offset - state->block.offset, piece.length);
    const bool on_host = !piece.target.empty();
    if (piece.run->converts()) {
      const bool in_place = on_host && !piece.memory->is_fresh();
      const std::span<std::byte> target = in_place ? piece.target : converted.first(piece.target_length);
      const auto start = Clock::now();
      KEYLOAD_RETURN_IF_ERROR(ConvertElements(source, piece.run->stored_dtype, target, piece.run->dtype));
      measures_.AddConversion(start);
      if (in_place) continue;
      converted = converted.subspan(piece.target_length);
      source = target;
    }
    if (on_host) {
      KEYLOAD_RETURN_IF_ERROR(piece.memory->Write(piece.target_offset, source));
    } else {
      StartCopy(state, piece, source);
    }
  }
  return absl::OkStatus();
}

void TransferRun::StartCopy(const std::shared_ptr<BlockState>& state, const BlockPiece& piece,
                            std::span<const std::byte> source) {
  {
    MutexLock lock(mutex_);
    ++outstanding_;
  }
  absl::Cleanup not_started = [this] {
    MutexLock lock(mutex_);
    --outstanding_;
  };
  const Segment& segment = segments_[piece.run->segment];
  const uint16_t device = plan_.segments[piece.run->segment].device;
  segment.device->CopyAsync(
      *segment.memory, piece.target_offset, source,
      [this, held = state, device, start = Clock::now(), bytes = source.size()](absl::Status status) mutable {
        measures_.AddCopy(device, bytes, start);
        if (!status.ok()) Fail(status);
        held.reset();
        MutexLock lock(mutex_);
        if (--outstanding_ == 0) idle_.NotifyAll();
      });
  std::move(not_started).Cancel();
}

void TransferRun::Measure(const CheckpointIndex& index, LoadReport& report) const {
  measures_.Write(index, report);
  report.bytes.peak_scratch = slabs_.peak_bytes();
}

}  // namespace keyload
