// Time to place a model of about 92,000 tensors. Names follow DeepSeek-V3.

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "server/base/strings.h"
#include "server/placement/placement.h"

namespace keyload {
namespace {

constexpr int kLayers = 61;
constexpr int kExperts = 256;
constexpr uint64_t kExpertBytes = 7168ull * 2048;
constexpr const char* kProjections[] = {"gate_proj", "up_proj", "down_proj"};

struct BigModel {
  std::vector<std::string> names;
  PlacementModel model;

  explicit BigModel(bool with_modules) {
    names.push_back("model.embed_tokens.weight");
    for (int layer = 0; layer < kLayers; ++layer) AddLayer(StrCat("model.layers.", layer), with_modules);
    names.push_back("lm_head.weight");
    for (const std::string& name : names) {
      model.tensors.push_back(
          {.name = name, .bytes = name.ends_with("scale_inv") ? kExpertBytes / 4096 : kExpertBytes});
    }
    model.tied_groups = {{0, static_cast<uint32_t>(names.size() - 1)}};
    if (with_modules) model.no_split_classes = {"DecoderLayer"};
  }

  void AddLayer(const std::string& layer, bool with_modules) {
    if (with_modules) model.modules.push_back({.name = layer, .class_name = "DecoderLayer"});
    for (int expert = 0; expert < kExperts; ++expert) {
      for (const char* projection : kProjections) {
        const std::string module = StrCat(layer, ".mlp.experts.", expert, ".", projection);
        if (with_modules) model.modules.push_back({.name = module, .class_name = "Linear"});
        names.push_back(module + ".weight");
        names.push_back(module + ".weight_scale_inv");
      }
    }
  }
};

std::vector<PlacementDevice> EightGpus(uint64_t free_bytes) {
  std::vector<PlacementDevice> devices;
  for (int i = 0; i < 8; ++i) devices.push_back({.name = StrCat("cuda:", i), .uuid = "", .free_bytes = free_bytes});
  devices.push_back({.name = "cpu", .uuid = "", .free_bytes = free_bytes});
  return devices;
}

void Run(benchmark::State& state, const PlacementModel& model, const DeviceMapSpec& spec, uint64_t free_bytes) {
  const std::vector<PlacementDevice> devices = EightGpus(free_bytes);
  for (auto _ : state) {
    const auto placement = Place(model, spec, devices);
    if (!placement.ok()) {
      state.SkipWithError("refused");
      return;
    }
    benchmark::DoNotOptimize(placement->device_of.data());
  }
  state.counters["tensors"] = static_cast<double>(model.tensors.size());
}

constexpr uint64_t kAmple = 141ull << 30;
constexpr uint64_t kTight = 20ull << 30;  // most of the model goes to disk

void Policy(benchmark::State& state, const char* policy) {
  const BigModel big(state.range(0) != 0);
  Run(state, big.model, {.policy = policy}, state.range(1) != 0 ? kTight : kAmple);
}
void BM_Auto(benchmark::State& state) { Policy(state, "auto"); }
void BM_Packed(benchmark::State& state) { Policy(state, "packed"); }
BENCHMARK(BM_Auto)->ArgNames({"modules", "tight"})->ArgsProduct({{0, 1}, {0, 1}})->Unit(benchmark::kMillisecond);
BENCHMARK(BM_Packed)->ArgNames({"modules", "tight"})->ArgsProduct({{0, 1}, {0, 1}})->Unit(benchmark::kMillisecond);

void BM_ExplicitPerExpert(benchmark::State& state) {
  const BigModel big(false);
  DeviceMapSpec spec = {.entries = {{"model.embed_tokens", "0"}, {"lm_head", "7"}}};
  for (int i = 0; i < kLayers * kExperts; ++i) {
    spec.entries.emplace_back(StrCat("model.layers.", i / kExperts, ".mlp.experts.", i % kExperts), StrCat(i % 8));
  }
  Run(state, big.model, spec, kAmple);
}
BENCHMARK(BM_ExplicitPerExpert)->Unit(benchmark::kMillisecond);

// One tensor of each of 20,000 modules is tied to the first, and they do not all fit beside it.
void BM_ManyTied(benchmark::State& state) {
  std::vector<std::string> names = {"first.weight", "first.bias"};
  PlacementModel model;
  model.tied_groups = {{0}};
  for (int i = 0; i < 20000; ++i) {
    model.tied_groups[0].push_back(static_cast<uint32_t>(names.size()));
    names.push_back(StrCat("m.", i, ".a.weight"));
    names.push_back(StrCat("m.", i, ".b.weight"));
  }
  for (const std::string& name : names)
    model.tensors.push_back({.name = name, .bytes = name.ends_with("a.weight") ? 4u : 4000u});
  Run(state, model, {.policy = "sequential"}, 1 << 20);
}
BENCHMARK(BM_ManyTied)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace keyload
