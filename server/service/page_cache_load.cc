#include "server/service/page_cache_load.h"

#include <algorithm>
#include <utility>

#include "server/base/byte_size.h"
#include "server/base/error.h"
#include "server/base/mutex.h"
#include "server/base/parallel.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

void AddRanges(uint64_t offset, uint64_t length, std::vector<ByteRange>& ranges) {
  if (length > 0) ranges.push_back({.offset = offset, .length = length});
}

void AddRanges(std::span<const PlannedTensor> parts, ShardRanges& ranges) {
  for (const PlannedTensor& part : parts) AddRanges(part.file_offset, part.stored_bytes, ranges[part.shard]);
}

// The ranges of one shard on their way into the page cache.
struct Warming {
  const Shard* shard = nullptr;
  const std::vector<ByteRange>* ranges = nullptr;
  uint64_t bytes = 0;  // of the ranges
  ReadCounts counts;
  HeldPages held;
};

absl::Status Warm(Warming& warming, HoldBudget* budget, StorageThreads* storage, const RequestContext& context) {
  const Shard& shard = *warming.shard;
  const StorageThreads::NotedMount mount = StorageThreads::MountOfFile(storage, shard.resolved);
  if (budget != nullptr) {
    KEYLOAD_ASSIGN_OR_RETURN(warming.held, HoldInPageCache(*budget, shard.fd->get(), shard.file, *warming.ranges,
                                                           context, warming.counts, mount));
  } else {
    PageCacheWarmer warmer(shard.fd->get(), shard.file, mount);
    for (const ByteRange& range : *warming.ranges) {
      KEYLOAD_RETURN_IF_ERROR(warmer.Warm(range, context, warming.counts));
    }
  }
  const StorageThreads::Operation touching(mount);
  return CheckUnchanged(shard, "while it was read");
}

// A warning about what could not be held, or is not in the page cache any more; empty when all of it is there.
std::string WhatIsLacking(const std::vector<Warming>& warmings) {
  uint64_t wanted = 0;
  uint64_t resident = 0;
  uint64_t refused = 0;
  bool known = true;
  std::string_view refusal;
  for (const Warming& warming : warmings) {
    const std::optional<uint64_t> bytes = ResidentBytes(warming.shard->fd->get(), *warming.ranges);
    known = known && bytes.has_value();
    wanted += warming.bytes;
    resident += std::min(bytes.value_or(0), warming.bytes);
    refused += warming.held.refused_bytes();
    if (refusal.empty()) refusal = warming.held.refusal();
  }
  if (refused > 0) {
    return StrCat(FormatByteSize(refused), " of ", FormatByteSize(wanted),
                  " could not be held in the page cache: ", refusal);
  }
  if (!known || resident >= wanted) return "";
  return StrCat(FormatByteSize(wanted - resident), " of ", FormatByteSize(wanted),
                " are not in the page cache although they were read: the system needed the memory");
}

}  // namespace

ShardRanges RangesInFiles(const KeyReport& keys, const LoadPlan& plan, const std::vector<Residency::State>& states) {
  const CheckpointIndex& index = *keys.index;
  ShardRanges ranges(index.shards().size());
  for (uint32_t i = 0; i < plan.tensors.size(); ++i) {
    const PlannedTensor& tensor = plan.tensors[i];
    const bool in_file = plan.segments[tensor.segment].kind == SegmentKind::kFile ||
                         (i < states.size() && states[i] == Residency::State::kLazy);
    if (in_file) AddRanges(plan.PartsOf(tensor), ranges);
  }
  for (const uint32_t key : plan.lazy_keys) {
    for (const KeyPart& part : keys.PartsOf(keys.keys[key])) {
      const StoredTensor& stored = index.tensors()[part.stored];
      AddRanges(stored.offset + part.offset, part.bytes, ranges[stored.shard]);
    }
  }
  for (std::vector<ByteRange>& of_shard : ranges) of_shard = JoinRanges(std::move(of_shard));
  return ranges;
}

ShardRanges CopiedRanges(const CheckpointIndex& index, const LoadPlan& plan) {
  ShardRanges ranges(index.shards().size());
  for (const PlannedTensor& tensor : plan.tensors) {
    if (plan.segments[tensor.segment].kind == SegmentKind::kMemory) AddRanges(plan.PartsOf(tensor), ranges);
  }
  for (std::vector<ByteRange>& of_shard : ranges) of_shard = JoinRanges(std::move(of_shard));
  return ranges;
}

absl::StatusOr<std::vector<HeldPages>> WarmRanges(const KeyReport& keys, const ShardRanges& ranges, HoldBudget* budget,
                                                  const TransferResources& resources, const RequestContext& context,
                                                  ProgressFunction progress, LoadReport& report) {
  std::vector<Warming> warmings;
  LoadProgress done = {.phase = "transfer"};
  for (uint32_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].empty()) continue;
    warmings.push_back({.shard = &keys.index->shards()[i], .ranges = &ranges[i], .bytes = TotalLength(ranges[i])});
    done.bytes_total += warmings.back().bytes;
  }
  // A mount that does not answer holds up this thread and those that read.
  StorageThreads::NotedMount mount;
  if (!warmings.empty()) mount = StorageThreads::MountOfFile(resources.storage, warmings.front().shard->resolved);
  const StorageThreads::Operation waiting(mount, StorageThreads::Operation::Kind::kWaits);
  Mutex mutex;
  const auto warm = [&](size_t i) -> absl::Status {
    KEYLOAD_RETURN_IF_ERROR(Warm(warmings[i], budget, resources.storage, context));
    MutexLock lock(mutex);
    done.bytes_done += warmings[i].bytes;
    progress(done);
    return absl::OkStatus();
  };
  // With this thread as many as a load may take: the others are for other loads.
  const absl::Status status = ParallelFor(resources.io, warmings.size(), warm, resources.MostWorkers() - 1);
  report.bytes.selected += done.bytes_total;
  for (const Warming& warming : warmings) {
    report.bytes.read += warming.counts.read;
    report.bytes.cached += warming.counts.cached;
    report.shards.push_back({.file = warming.shard->file,
                             .selected_bytes = warming.bytes,
                             .read_bytes = warming.counts.read,
                             .engine = std::string(EngineName(Engine::kBuffered))});
  }
  KEYLOAD_RETURN_IF_ERROR(status);
  if (std::string lacking = WhatIsLacking(warmings); !lacking.empty()) report.warnings.push_back(std::move(lacking));
  std::vector<HeldPages> held;
  for (Warming& warming : warmings) held.push_back(std::move(warming.held));
  return held;
}

void DropRanges(const CheckpointIndex& index, const ShardRanges& ranges, LoadReport& report) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].empty()) continue;
    const Shard& shard = index.shards()[i];
    std::vector<ByteRange> wider = ranges[i];
    if (wider.front().offset == shard.data_offset) {
      // The kernel drops a large folio as a whole or not at all, and the first one has the header in it.
      wider.front() = {.offset = 0, .length = shard.data_offset + wider.front().length};
    }
    const absl::Status dropped = DropFromPageCache(shard.fd->get(), shard.file, wider);
    if (!dropped.ok()) report.warnings.emplace_back(dropped.message());
  }
}

uint64_t RecentPageCacheBytes(const std::shared_ptr<const ResidentModel>& model, Executor& background) {
  constexpr uint64_t kQuickBytes = uint64_t{4} << 30;
  if (!model->page_cache().Begin()) return model->page_cache().bytes();
  const auto measure = [model] {
    const auto start = std::chrono::steady_clock::now();
    const uint64_t bytes = PageCacheBytes(*model);
    const auto end = std::chrono::steady_clock::now();
    model->page_cache().Set(bytes, end - start, end);
  };
  uint64_t file_bytes = 0;
  for (const Shard& shard : model->content().keys->index->shards()) file_bytes += shard.identity.size;
  if (file_bytes <= kQuickBytes) {
    measure();
  } else if (!background.TrySubmit(measure)) {
    model->page_cache().Set(model->page_cache().bytes(), {});
  }
  return model->page_cache().bytes();
}

uint64_t PageCacheBytes(const ResidentModel& model) {
  const CheckpointIndex& index = *model.content().keys->index;
  const ShardRanges ranges = RangesInFiles(*model.content().keys, *model.content().plan, model.residency().states());
  uint64_t bytes = 0;
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].empty()) continue;
    bytes += std::min(ResidentBytes(index.shards()[i].fd->get(), ranges[i]).value_or(0), TotalLength(ranges[i]));
  }
  return bytes;
}

}  // namespace keyload
