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

void SortAndJoin(std::vector<ByteRange>& ranges) {
  const auto before = [](const ByteRange& a, const ByteRange& b) { return a.offset < b.offset; };
  if (!std::is_sorted(ranges.begin(), ranges.end(), before)) std::sort(ranges.begin(), ranges.end(), before);
  size_t last = 0;
  for (size_t i = 1; i < ranges.size(); ++i) {
    const uint64_t end = ranges[last].offset + ranges[last].length;
    if (ranges[i].offset <= end) {
      ranges[last].length = std::max(end, ranges[i].offset + ranges[i].length) - ranges[last].offset;
    } else {
      ranges[++last] = ranges[i];
    }
  }
  if (!ranges.empty()) ranges.resize(last + 1);
}

void Add(uint64_t offset, uint64_t length, std::vector<ByteRange>& ranges) {
  if (length > 0) ranges.push_back({.offset = offset, .length = length});
}

uint64_t Sum(const std::vector<ByteRange>& ranges) {
  uint64_t sum = 0;
  for (const ByteRange& range : ranges) sum += range.length;
  return sum;
}

}  // namespace

ShardRanges RangesInFiles(const KeyReport& keys, const LoadPlan& plan, const std::vector<Residency::State>& states) {
  const CheckpointIndex& index = *keys.index;
  ShardRanges ranges(index.shards().size());
  for (uint32_t i = 0; i < plan.tensors.size(); ++i) {
    const PlannedTensor& tensor = plan.tensors[i];
    const bool in_file = plan.segments[tensor.segment].kind == SegmentKind::kFile ||
                         (i < states.size() && states[i] == Residency::State::kLazy);
    if (in_file) Add(tensor.file_offset, tensor.stored_bytes, ranges[tensor.shard]);
  }
  for (const uint32_t key : plan.lazy_keys) {
    const StoredTensor& stored = index.tensors()[keys.keys[key].stored];
    Add(stored.offset, stored.bytes, ranges[stored.shard]);
  }
  for (std::vector<ByteRange>& of_shard : ranges) SortAndJoin(of_shard);
  return ranges;
}

ShardRanges CopiedRanges(const CheckpointIndex& index, const LoadPlan& plan) {
  ShardRanges ranges(index.shards().size());
  for (const PlannedTensor& tensor : plan.tensors) {
    if (plan.segments[tensor.segment].kind == SegmentKind::kMemory)
      Add(tensor.file_offset, tensor.stored_bytes, ranges[tensor.shard]);
  }
  for (std::vector<ByteRange>& of_shard : ranges) SortAndJoin(of_shard);
  return ranges;
}

absl::StatusOr<std::vector<HeldPages>> WarmRanges(const KeyReport& keys, const ShardRanges& ranges, HoldBudget* budget,
                                                  const TransferResources& resources, const RequestContext& context,
                                                  ProgressFunction progress, LoadReport& report) {
  const CheckpointIndex& index = *keys.index;
  struct Done {
    ReadCounts counts;
    HeldPages held;
  };
  std::vector<uint32_t> shards;
  uint64_t wanted = 0;
  for (uint32_t i = 0; i < ranges.size(); ++i) {
    if (!ranges[i].empty()) shards.push_back(i);
    wanted += Sum(ranges[i]);
  }
  std::vector<Done> done(shards.size());
  Mutex mutex;
  uint64_t warmed = 0;
  const auto warm = [&](size_t i) -> absl::Status {
    const Shard& shard = index.shards()[shards[i]];
    const std::vector<ByteRange>& wanted_here = ranges[shards[i]];
    if (budget != nullptr) {
      KEYLOAD_ASSIGN_OR_RETURN(
          done[i].held, HoldInPageCache(*budget, shard.fd->get(), shard.file, wanted_here, context, done[i].counts));
    } else {
      PageCacheWarmer warmer(shard.fd->get(), shard.file);
      for (const ByteRange& range : wanted_here) {
        KEYLOAD_RETURN_IF_ERROR(warmer.Warm(range, context, done[i].counts));
      }
    }
    KEYLOAD_ASSIGN_OR_RETURN(const FileIdentity now, IdentifyFile(shard.fd->get(), shard.file));
    if (now != shard.identity) {
      return MakeError(Reason::kCheckpointChanged, StrCat(shard.file, ": the file changed while it was read"),
                       {{"file", shard.file}});
    }
    MutexLock lock(mutex);
    warmed += Sum(wanted_here);
    progress({.phase = "transfer", .bytes_done = warmed, .bytes_total = wanted, .tensors_done = 0, .tensors_total = 0});
    return absl::OkStatus();
  };
  const absl::Status status = ParallelFor(resources.io, shards.size(), warm);
  report.bytes.selected += wanted;
  for (size_t i = 0; i < done.size(); ++i) {
    report.bytes.read += done[i].counts.read;
    report.bytes.cached += done[i].counts.cached;
    report.shards.push_back({.file = index.shards()[shards[i]].file,
                             .selected_bytes = Sum(ranges[shards[i]]),
                             .read_bytes = done[i].counts.read,
                             .engine = std::string(EngineName(Engine::kBuffered))});
  }
  KEYLOAD_RETURN_IF_ERROR(status);

  std::vector<HeldPages> held;
  uint64_t resident = 0;
  uint64_t refused = 0;
  bool known = true;
  std::string refusal;
  for (size_t i = 0; i < done.size(); ++i) {
    const std::optional<uint64_t> bytes = ResidentBytes(index.shards()[shards[i]].fd->get(), ranges[shards[i]]);
    known = known && bytes.has_value();
    resident += std::min(bytes.value_or(0), Sum(ranges[shards[i]]));
    refused += done[i].held.refused_bytes();
    if (refusal.empty()) refusal = done[i].held.refusal();
    held.push_back(std::move(done[i].held));
  }
  if (refused > 0) {
    report.warnings.push_back(StrCat(FormatByteSize(refused), " of ", FormatByteSize(wanted),
                                     " could not be held in the page cache: ", refusal));
  } else if (known && resident < wanted) {
    report.warnings.push_back(
        StrCat(FormatByteSize(wanted - resident), " of ", FormatByteSize(wanted),
               " are not in the page cache although they were read: the system needed the memory"));
  }
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

uint64_t PageCacheBytes(const ResidentModel& model) {
  const CheckpointIndex& index = *model.content().keys->index;
  const ShardRanges ranges = RangesInFiles(*model.content().keys, *model.content().plan, model.residency().states());
  uint64_t bytes = 0;
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].empty()) continue;
    bytes += std::min(ResidentBytes(index.shards()[i].fd->get(), ranges[i]).value_or(0), Sum(ranges[i]));
  }
  return bytes;
}

}  // namespace keyload
