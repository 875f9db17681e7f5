#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/model_names.h"
#include "server/keys/name_arena.h"
#include "server/keys/reconcile.h"

namespace keyload {
namespace {

std::shared_ptr<const CheckpointIndex> Index(const std::vector<std::string>& names, size_t count) {
  CheckpointIndex::Content content;
  CheckpointHeaders::Content headers;
  content.shards.resize(1);
  NameArena arena(nullptr);
  for (size_t i = 0; i < count; ++i) {
    headers.tensors.push_back({.name = *arena.Add(names[i]), .shape = {2048, 7168}, .bytes = 2048 * 7168 * 4});
  }
  headers.name_blocks = arena.Release();
  content.headers = std::make_shared<const CheckpointHeaders>(std::move(headers));
  return std::make_shared<const CheckpointIndex>(std::move(content));
}

std::shared_ptr<const Manifest> ManifestOf(const std::vector<std::string>& names) {
  Manifest manifest;
  for (const std::string& name : names) manifest.tensors.push_back({.name = name, .shape = {2048, 7168}});
  if (!ValidateManifest(manifest).ok()) std::abort();
  return std::make_shared<const Manifest>(std::move(manifest));
}

void Run(benchmark::State& state, const ReconcileInput& input) {
  for (auto _ : state) {
    auto report = Reconcile(input);
    if (!report.ok()) std::abort();
    benchmark::DoNotOptimize(*report);
  }
  ReportPerKey(state);
}

void AllMissing(benchmark::State& state) {
  const KeySelection everything;
  const auto names = ModelKeyNames(state.range(0));
  Run(state, {.index = Index({}, 0), .manifest = ManifestOf(names), .selection = &everything});
}

void AllFound(benchmark::State& state) {
  const KeySelection everything;
  const auto names = ModelKeyNames(state.range(0));
  Run(state, {.index = Index(names, names.size()), .manifest = ManifestOf(names), .selection = &everything});
}

void AllRenamedAndPrefixed(benchmark::State& state) {
  const KeySelection everything;
  auto names = ModelKeyNames(state.range(0));
  const auto index = Index(names, names.size());
  for (std::string& name : names) name = "base." + name.replace(name.find("mlp"), 3, "ffn");
  const KeyRules rules{.base_model_prefix = "base", .renames = {{"gamma$", "weight"}, {"\\.mlp\\.", ".ffn."}}};
  Run(state, {.index = index, .manifest = ManifestOf(names), .rules = rules, .selection = &everything});
}

// Shards written by safetensors hold their tensors in text order: a new index sorts them, a known one has.
void FromCheckpoint(benchmark::State& state, bool known) {
  const KeySelection everything;
  auto names = ModelKeyNames(state.range(0));
  std::sort(names.begin(), names.end());
  auto index = Index(names, names.size());
  for (auto _ : state) {
    if (!known) {
      state.PauseTiming();
      index = Index(names, names.size());
      state.ResumeTiming();
    }
    auto report = Reconcile({.index = index, .selection = &everything});
    if (!report.ok()) std::abort();
    benchmark::DoNotOptimize(*report);
  }
  ReportPerKey(state);
}
void FromNewCheckpoint(benchmark::State& state) { FromCheckpoint(state, false); }
void FromKnownCheckpoint(benchmark::State& state) { FromCheckpoint(state, true); }

void IncludeOneLayer(benchmark::State& state) {
  const auto layer = KeySelection::Compile({.include = {"model.layers.3.*"}});
  const auto names = ModelKeyNames(state.range(0));
  Run(state, {.index = Index(names, names.size()), .manifest = ManifestOf(names), .selection = &*layer});
}

// DeepSeek-V3's experts: 768 stored tensors of a layer become two.
void ExpertsMerged(benchmark::State& state) {
  const KeySelection everything;
  std::vector<std::string> stored;
  Manifest manifest;
  const int layers = static_cast<int>(state.range(0)) / (3 * 256);
  for (int layer = 3; layer < 3 + layers; ++layer) {
    const std::string module = "model.layers." + std::to_string(layer) + ".mlp.experts.";
    for (int expert = 0; expert < 256; ++expert) {
      for (const char* part : {"down", "gate", "up"}) {
        stored.push_back(module + std::to_string(expert) + "." + part + "_proj.weight");
      }
    }
    manifest.tensors.push_back({.name = module + "gate_up_proj", .shape = {256, 4096, 7168}});
    manifest.tensors.push_back({.name = module + "down_proj", .shape = {256, 2048, 7168}});
  }
  const ConversionOperation stack = {OperationKind::kStack, {0}};
  manifest.conversions = {
      {.sources = {"mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"},
       .targets = {"mlp.experts.gate_up_proj"},
       .operations = {stack, {OperationKind::kConcatenate, {1}}}},
      {.sources = {"mlp.experts.*.down_proj.weight"}, .targets = {"mlp.experts.down_proj"}, .operations = {stack}}};
  if (!ValidateManifest(manifest).ok()) std::abort();
  std::sort(stored.begin(), stored.end());
  Run(state, {.index = Index(stored, stored.size()),
              .manifest = std::make_shared<const Manifest>(std::move(manifest)),
              .selection = &everything});
}

BENCHMARK(AllMissing)->Apply(DoublingKeys);
BENCHMARK(AllFound)->Apply(DoublingKeys);
BENCHMARK(AllRenamedAndPrefixed)->Arg(91'991)->Unit(benchmark::kMillisecond);
BENCHMARK(FromNewCheckpoint)->Apply(DoublingKeys);
BENCHMARK(FromKnownCheckpoint)->Apply(DoublingKeys);
BENCHMARK(ExpertsMerged)->Arg(22'272)->Arg(44'544)->Unit(benchmark::kMillisecond);
BENCHMARK(IncludeOneLayer)->Arg(91'991)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace keyload
