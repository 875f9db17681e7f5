#include "server/load/measures.h"

#include <algorithm>

namespace keyload {
namespace {

int64_t Nanoseconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
}

int64_t NanosecondsSince(TransferMeasures::Clock::time_point start) {
  return Nanoseconds(TransferMeasures::Clock::now() - start);
}

}  // namespace

void TransferMeasures::AddRead(uint32_t shard, Engine engine, const ReadCounts& counts, Clock::time_point start) {
  const int64_t elapsed = NanosecondsSince(start);
  read_ns_ += elapsed;
  read_bytes_ += counts.read;
  cached_bytes_ += counts.cached;
  ShardTotals& totals = shards_[shard];
  totals.read += counts.read;
  totals.nanoseconds += elapsed;
  totals.engines |= 1u << static_cast<uint32_t>(engine);
}

void TransferMeasures::AddConversion(Clock::time_point start) { convert_ns_ += NanosecondsSince(start); }

void TransferMeasures::AddCopy(uint16_t device, uint64_t bytes, Clock::time_point start) {
  DeviceTotals& totals = devices_[device];
  totals.copied += bytes;
  const int64_t now = Nanoseconds(Clock::now().time_since_epoch());
  totals.nanoseconds += now - std::max(Nanoseconds(start.time_since_epoch()), totals.last_done.exchange(now));
}

void TransferMeasures::Write(const CheckpointIndex& index, LoadReport& report) const {
  report.bytes.read = read_bytes_;
  report.bytes.cached = cached_bytes_;
  int64_t copy_ns = 0;
  for (size_t i = 0; i < devices_.size(); ++i) {
    copy_ns += devices_[i].nanoseconds;
    for (DeviceUse& use : report.devices) {
      if (use.device != plan_.devices[i]) continue;
      use.copied_bytes = devices_[i].copied;
      use.copy_duration = absl::Nanoseconds(devices_[i].nanoseconds.load());
    }
  }
  report.busy = {{.name = "read", .start = {}, .duration = absl::Nanoseconds(read_ns_.load())},
                 {.name = "convert", .start = {}, .duration = absl::Nanoseconds(convert_ns_.load())},
                 {.name = "copy", .start = {}, .duration = absl::Nanoseconds(copy_ns)}};
  for (size_t i = 0, use = 0; i < shards_.size() && use < report.shards.size(); ++i) {
    if (index.shards()[i].file != report.shards[use].file) continue;
    report.shards[use].read_bytes = shards_[i].read;
    report.shards[use].duration = absl::Nanoseconds(shards_[i].nanoseconds.load());
    if (shards_[i].engines != 0) report.shards[use].engine = EngineNames(shards_[i].engines);
    ++use;
  }
}

}  // namespace keyload
