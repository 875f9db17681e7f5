// Time per key to open a checkpoint of 163 shards, holes for data: headers read for the first time by one thread and by
// four, and known already.

#include <benchmark/benchmark.h>

#include "bench/model_names.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/checkpoint/header_cache.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

constexpr uint32_t kShards = 163;

void Open(benchmark::State& state, const HeaderReading& reading) {
  const TempDir dir;
  const auto keys_per_shard = static_cast<uint32_t>((state.range(0) + kShards - 1) / kShards);
  WriteSparseCheckpoint(dir.path(), kShards, keys_per_shard, 4096);
  const ModelRoots roots = ModelRoots::Create({dir.path()}).value();
  const auto open = [&] { return OpenCheckpoint(roots, {.path = dir.path(), .weights = ""}, {}, reading); };
  if (!open().ok()) return state.SkipWithError("refused");
  for (auto _ : state) benchmark::DoNotOptimize(open());
  ReportPerKey(state);
}

void BM_OpenUnknown(benchmark::State& state) { Open(state, {}); }
BENCHMARK(BM_OpenUnknown)->Apply(DoublingKeys)->MeasureProcessCPUTime()->UseRealTime();

void BM_OpenUnknownByFour(benchmark::State& state) {
  Executor threads({.name = "header", .threads = 3, .queue_limit = 3});
  Open(state, {.threads = &threads});
}
BENCHMARK(BM_OpenUnknownByFour)->Apply(DoublingKeys)->MeasureProcessCPUTime()->UseRealTime();

void BM_OpenKnown(benchmark::State& state) {
  HeaderCache cache({.max_bytes = uint64_t{1} << 30, .now = [] { return absl::Now() + absl::Hours(1); }});
  Open(state, {.cache = &cache});
}
BENCHMARK(BM_OpenKnown)->Apply(DoublingKeys)->MeasureProcessCPUTime()->UseRealTime();

}  // namespace
}  // namespace keyload
