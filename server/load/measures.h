#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "server/io/shard_reader.h"
#include "server/plan/load_plan.h"
#include "server/report/load_report.h"

namespace keyload {

// What one transfer measures while it runs, for its report. Thread-safe; no lock.
class TransferMeasures {
 public:
  using Clock = std::chrono::steady_clock;

  explicit TransferMeasures(const LoadPlan& plan, size_t shards)
      : plan_(plan), shards_(shards), devices_(plan.devices.size()) {}

  // A read of `shard` that began at `start` and ends now.
  void AddRead(uint32_t shard, Engine engine, const ReadCounts& counts, Clock::time_point start);
  void AddConversion(Clock::time_point start);
  // A copy to a device (index into LoadPlan::devices) that began at `start` and ends now. Called by the device's
  // thread.
  void AddCopy(uint16_t device, uint64_t bytes, Clock::time_point start);

  // Fills bytes.read and bytes.cached, busy, and what report.shards and report.devices say of reading and copying.
  // REQUIRES: report.shards lists touched shards in the index's order.
  void Write(const CheckpointIndex& index, LoadReport& report) const;

 private:
  struct ShardTotals {
    std::atomic<uint64_t> read = 0;
    std::atomic<int64_t> nanoseconds = 0;
    std::atomic<uint32_t> engines = 0;  // bit per Engine
  };
  struct DeviceTotals {
    std::atomic<uint64_t> copied = 0;
    std::atomic<int64_t> nanoseconds = 0;  // while at least one copy was on its way
    std::atomic<int64_t> last_done = 0;    // by the steady clock
  };

  const LoadPlan& plan_;
  std::vector<ShardTotals> shards_;
  std::vector<DeviceTotals> devices_;
  std::atomic<uint64_t> read_bytes_ = 0;
  std::atomic<uint64_t> cached_bytes_ = 0;
  std::atomic<int64_t> read_ns_ = 0;
  std::atomic<int64_t> convert_ns_ = 0;
};

}  // namespace keyload
