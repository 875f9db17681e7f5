// Time per key from reconciled keys to a finished plan: placement, segments and extents, report.

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bench/model_names.h"
#include "server/service/prepare.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

constexpr uint32_t kShards = 163;

// What the checkpoint in `dir` has, or against a manifest of `expected` keys what it lacks.
PreparedKeys Prepare(const TempDir& dir, int64_t expected = 0) {
  std::shared_ptr<Manifest> manifest;
  if (expected > 0) {
    manifest = std::make_shared<Manifest>();
    for (std::string& name : ModelKeyNames(expected)) {
      manifest->tensors.push_back({.name = std::move(name), .dtype = DType::kF8E4M3, .shape = {2048, 7168}});
    }
    if (!ValidateManifest(*manifest).ok()) std::abort();
  }
  const CheckpointSource source = {.path = dir.path(), .weights = "", .allow_no_weights = true};
  const auto index = OpenCheckpoint(ModelRoots::Create({dir.path()}).value(), source, {});
  if (!index.ok()) std::abort();
  const KeySelection everything;
  const auto report = Reconcile({.index = *index, .manifest = manifest, .rules = {}, .selection = &everything});
  if (!report.ok()) std::abort();
  return {.keys = *report,
          .expected_from = expected > 0 ? ExpectedFrom::kManifest : ExpectedFrom::kCheckpoint,
          .may_map = std::vector<bool>((*index)->shards().size(), true)};
}

void Run(benchmark::State& state, const PreparedKeys& prepared, const std::string& policy) {
  std::vector<std::unique_ptr<Device>> devices;
  for (uint32_t i = 0; i < 8; ++i) devices.push_back(MakeSimulatedGpu({.index = i, .capacity_bytes = 8ull << 40}));
  devices.push_back(MakeHostDevice({.capacity_bytes = 64ull << 40}));
  const DeviceSet node(std::move(devices), {});
  LoadSpec spec;
  spec.device_map.policy = policy;
  for (auto _ : state) {
    PhaseClock clock;
    const auto plan = PreparePlan(spec, prepared, SnapshotDevices(node), node, RequestContext(), clock);
    if (!plan.ok()) return state.SkipWithError("refused");
    benchmark::DoNotOptimize(plan->plan.get());
  }
  ReportPerKey(state);
}

void RunStored(benchmark::State& state, const std::string& policy) {
  const TempDir dir;
  WriteSparseCheckpoint(dir.path(), kShards, static_cast<uint32_t>(state.range(0) / kShards), 1 << 20);
  Run(state, Prepare(dir), policy);
}

void BM_PlanMapped(benchmark::State& state) { RunStored(state, "cpu"); }
BENCHMARK(BM_PlanMapped)->Apply(DoublingKeys);

void BM_PlanAuto(benchmark::State& state) { RunStored(state, "auto"); }
BENCHMARK(BM_PlanAuto)->Apply(DoublingKeys);

void BM_PlanAllMissing(benchmark::State& state) {
  const TempDir empty;
  Run(state, Prepare(empty, state.range(0)), "auto");
}
BENCHMARK(BM_PlanAllMissing)->Apply(DoublingKeys);

}  // namespace
}  // namespace keyload
