#include "server/load/transfer_run.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "server/base/error.h"
#include "server/tensor/convert.h"

namespace keyload {
namespace {

using SteadyClock = std::chrono::steady_clock;

int64_t Nanoseconds(SteadyClock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

int64_t NanosecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(SteadyClock::now() - start).count();
}

constexpr BlockLimits kBlockLimits;

size_t Workers(const TransferResources& resources) {
  return resources.workers > 0 ? resources.workers : resources.io->threads();
}

}  // namespace

// Alive until its last copy is done; then the slab goes back and the block counts.
struct TransferRun::BlockState {
  BlockState(TransferRun& owner, const Block& its_block, std::span<std::byte> its_slab)
      : run(owner), block(its_block), slab(its_slab) {}
  ~BlockState() {
    run.slabs_.PutBack(slab);
    if (!run.failed_) run.CountDone(block);
  }
  TransferRun& run;
  const Block& block;
  std::span<std::byte> slab;
};

TransferRun::TransferRun(const LoadPlan& plan, const TransferResources& resources, const RequestContext& context,
                         std::vector<Segment>& segments, const std::vector<std::shared_ptr<ShardReader>>& readers)
    : plan_(plan),
      resources_(resources),
      context_(context),
      segments_(segments),
      readers_(readers),
      blocks_(CutBlocks(plan, kBlockLimits)),
      slabs_(*resources.scratch, SlabBytes(plan, kBlockLimits.buffered_bytes), Workers(resources) + 2),
      shard_totals_(readers.size()),
      device_totals_(plan.devices.size()) {}

// A block as read and, behind it, as converted.
uint64_t TransferRun::SlabBytes(const LoadPlan& plan, uint64_t block_bytes) {
  uint64_t growth = 0;
  for (const PlannedTensor& tensor : plan.tensors) {
    if (tensor.dtype != tensor.stored_dtype) {
      growth = std::max<uint64_t>(
          growth, (DTypeBits(tensor.dtype) + DTypeBits(tensor.stored_dtype) - 1) / DTypeBits(tensor.stored_dtype));
    }
  }
  return block_bytes * (1 + growth);
}

absl::Status TransferRun::Run(ProgressFunction progress) {
  const size_t workers = std::min(Workers(resources_), blocks_.size());
  for (size_t i = 0; i < workers; ++i) {
    {
      MutexLock lock(mutex_);
      ++outstanding_;
    }
    if (!resources_.io->TrySubmit([this] { Work(); })) {
      Fail(MakeError(Reason::kLoadQueueFull, "the read queue is full"));
      MutexLock lock(mutex_);
      --outstanding_;
    }
  }
  while (true) {
    {
      MutexLock lock(mutex_);
      if (outstanding_ > 0) idle_.WaitFor(mutex_, absl::ToChronoMilliseconds(kProgressInterval));
      if (outstanding_ == 0) return first_error_.ok() ? context_.Check() : first_error_;
    }
    progress(Progress());
  }
}

LoadProgress TransferRun::Progress() const {
  return {.phase = "transfer",
          .bytes_done = bytes_done_,
          .bytes_total = plan_.selected_bytes,
          .tensors_done = tensors_done_,
          .tensors_total = plan_.tensors.size()};
}

void TransferRun::Work() {
  while (!failed_) {
    const size_t next = next_block_.fetch_add(1);
    if (next >= blocks_.size()) break;
    absl::Status status = context_.Check();
    if (status.ok()) status = RunBlock(blocks_[next]);
    if (!status.ok()) Fail(status);
  }
  MutexLock lock(mutex_);
  if (--outstanding_ == 0) idle_.NotifyAll();
}

void TransferRun::Fail(const absl::Status& status) {
  MutexLock lock(mutex_);
  if (first_error_.ok()) first_error_ = status;
  failed_ = true;
}

void TransferRun::CountDone(const Block& block) {
  uint64_t bytes = 0;
  uint64_t tensors = 0;
  for (const Piece& piece : Pieces(block)) {
    bytes += piece.length;
    tensors += piece.file_offset + piece.length == piece.tensor->file_offset + piece.tensor->stored_bytes ? 1 : 0;
  }
  bytes_done_ += bytes;
  tensors_done_ += tensors;
}

absl::Status TransferRun::RunBlock(const Block& block) {
  const Extent& extent = plan_.extents[block.extent];
  ShardReader& reader = *readers_[extent.shard];
  if (block.length == 0) {
    CountDone(block);
    return absl::OkStatus();
  }
  if (extent.engine == Engine::kBuffered && !GoesStraightToSegments(block)) return ReadThroughSlab(block, reader);
  KEYLOAD_RETURN_IF_ERROR(extent.engine == Engine::kMapped ? Read(block, reader, {}) : ReadIntoSegments(block, reader));
  CountDone(block);
  return absl::OkStatus();
}

std::vector<TransferRun::Piece> TransferRun::Pieces(const Block& block) const {
  std::vector<Piece> pieces;
  pieces.reserve(block.end_tensor - block.first_tensor);
  for (uint32_t i = block.first_tensor; i < block.end_tensor; ++i) {
    const PlannedTensor& tensor = plan_.tensors[i];
    const uint64_t begin = std::max(tensor.file_offset, block.offset);
    const uint64_t end = std::min(tensor.file_offset + tensor.stored_bytes, block.offset + block.length);
    const uint64_t before = begin - tensor.file_offset;
    const uint64_t length = end - begin;
    const bool converts = tensor.dtype != tensor.stored_dtype;
    const auto scaled = [&](uint64_t bytes) {
      return converts ? bytes / (DTypeBits(tensor.stored_dtype) / 8) * (DTypeBits(tensor.dtype) / 8) : bytes;
    };
    pieces.push_back({.tensor = &tensor,
                      .file_offset = begin,
                      .length = length,
                      .target_offset = tensor.segment_offset + scaled(before),
                      .target_length = scaled(length)});
  }
  return pieces;
}

bool TransferRun::GoesStraightToSegments(const Block& block) const {
  for (uint32_t i = block.first_tensor; i < block.end_tensor; ++i) {
    const PlannedTensor& tensor = plan_.tensors[i];
    if (tensor.dtype != tensor.stored_dtype) return false;
    if (tensor.stored_bytes > 0 && segments_[tensor.segment].memory->host().empty()) return false;
  }
  return true;
}

std::span<std::byte> TransferRun::HostTarget(const Piece& piece) const {
  const std::span<std::byte> host = segments_[piece.tensor->segment].memory->host();
  return host.empty() ? host : host.subspan(piece.target_offset, piece.target_length);
}

// Reads the block into `buffers`, or without any only brings it into the page cache.
absl::Status TransferRun::Read(const Block& block, ShardReader& reader, std::span<const iovec> buffers) {
  const auto start = SteadyClock::now();
  ReadCounts counts;
  const absl::Status status = buffers.empty() ? reader.Populate(block.offset, block.length, counts)
                                              : reader.ReadVector(block.offset, buffers, counts);
  const int64_t elapsed = NanosecondsSince(start);
  read_ns_ += elapsed;
  read_bytes_ += counts.read;
  cached_bytes_ += counts.cached;
  ShardTotals& totals = shard_totals_[plan_.extents[block.extent].shard];
  totals.read += counts.read;
  totals.nanoseconds += elapsed;
  return status;
}

absl::Status TransferRun::ReadIntoSegments(const Block& block, ShardReader& reader) {
  std::vector<std::byte> gap_bytes;  // gaps between wanted tensors land here, over one another
  std::vector<iovec> buffers;
  const std::vector<Piece> pieces = Pieces(block);
  uint64_t largest_gap = 0;
  uint64_t position = block.offset;
  for (const Piece& piece : pieces) {
    largest_gap = std::max(largest_gap, piece.file_offset - std::min(position, piece.file_offset));
    position = std::max(position, piece.file_offset + piece.length);
  }
  gap_bytes.resize(largest_gap);
  position = block.offset;
  for (const Piece& piece : pieces) {
    if (piece.length == 0) continue;
    if (piece.file_offset > position) buffers.push_back({gap_bytes.data(), piece.file_offset - position});
    const std::span<std::byte> target = HostTarget(piece);
    buffers.push_back({target.data(), target.size()});
    position = piece.file_offset + piece.length;
  }
  return buffers.empty() ? absl::OkStatus() : Read(block, reader, buffers);
}

absl::Status TransferRun::ReadThroughSlab(const Block& block, ShardReader& reader) {
  KEYLOAD_ASSIGN_OR_RETURN(const std::span<std::byte> slab, slabs_.Take(context_));
  const auto state = std::make_shared<BlockState>(*this, block, slab);
  const std::span<std::byte> stored = slab.first(block.length);
  std::span<std::byte> converted = slab.subspan(block.length);
  const iovec buffer = {stored.data(), stored.size()};
  absl::Status status = Read(block, reader, {&buffer, 1});
  for (const Piece& piece : Pieces(block)) {
    if (!status.ok()) break;
    if (piece.length == 0) continue;
    std::span<const std::byte> source = stored.subspan(piece.file_offset - block.offset, piece.length);
    if (piece.tensor->dtype != piece.tensor->stored_dtype) {
      const std::span<std::byte> host = HostTarget(piece);
      const std::span<std::byte> target = host.empty() ? converted.first(piece.target_length) : host;
      const auto start = SteadyClock::now();
      status = ConvertElements(source, piece.tensor->stored_dtype, target, piece.tensor->dtype);
      convert_ns_ += NanosecondsSince(start);
      if (!status.ok() || !host.empty()) continue;
      converted = converted.subspan(piece.target_length);
      source = target;
    }
    StartCopy(state, piece, source);
  }
  if (!status.ok()) failed_ = true;  // before the state's end counts the block as done
  return status;
}

void TransferRun::StartCopy(const std::shared_ptr<BlockState>& state, const Piece& piece,
                            std::span<const std::byte> source) {
  {
    MutexLock lock(mutex_);
    ++outstanding_;
  }
  const Segment& segment = segments_[piece.tensor->segment];
  DeviceTotals& totals = device_totals_[plan_.segments[piece.tensor->segment].device];
  const int64_t start = Nanoseconds(SteadyClock::now());
  segment.device->CopyAsync(*segment.memory, piece.target_offset, source,
                            [this, held = state, &totals, start, bytes = source.size()](absl::Status status) mutable {
                              totals.copied += bytes;
                              const int64_t now = Nanoseconds(SteadyClock::now());
                              totals.nanoseconds += now - std::max(start, totals.last_done.exchange(now));
                              if (!status.ok()) Fail(status);
                              held.reset();
                              MutexLock lock(mutex_);
                              if (--outstanding_ == 0) idle_.NotifyAll();
                            });
}

void TransferRun::Measure(const CheckpointIndex& index, LoadReport& report) const {
  report.bytes.read = read_bytes_;
  report.bytes.cached = cached_bytes_;
  report.bytes.peak_scratch = slabs_.peak_bytes();
  int64_t copy_ns = 0;
  for (size_t i = 0; i < device_totals_.size(); ++i) {
    copy_ns += device_totals_[i].nanoseconds;
    for (DeviceUse& use : report.devices) {
      if (use.device != plan_.devices[i]) continue;
      use.copied_bytes = device_totals_[i].copied;
      use.copy_duration = absl::Nanoseconds(device_totals_[i].nanoseconds.load());
    }
  }
  report.busy = {{.name = "read", .start = {}, .duration = absl::Nanoseconds(read_ns_.load())},
                 {.name = "convert", .start = {}, .duration = absl::Nanoseconds(convert_ns_.load())},
                 {.name = "copy", .start = {}, .duration = absl::Nanoseconds(copy_ns)}};
  // report.shards lists the touched shards in the index's order.
  for (size_t i = 0, use = 0; i < shard_totals_.size() && use < report.shards.size(); ++i) {
    if (index.shards()[i].file != report.shards[use].file) continue;
    report.shards[use].read_bytes = shard_totals_[i].read;
    report.shards[use].duration = absl::Nanoseconds(shard_totals_[i].nanoseconds.load());
    ++use;
  }
}

}  // namespace keyload
