// Time per tensor to parse and validate safetensors headers and the index file. Names and shapes follow DeepSeek-V3.

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_format.h"
#include "server/checkpoint/index_file.h"
#include "server/checkpoint/safetensors_header.h"

namespace keyload {
namespace {

constexpr uint64_t kTensorBytes = 7168 * 2048;
constexpr const char* kProjections[] = {"gate_proj", "up_proj", "down_proj"};

std::string Name(int64_t i) {
  return absl::StrFormat("model.layers.%d.mlp.experts.%d.%s.weight", i / 768, i / 3 % 256, kProjections[i % 3]);
}

std::string Header(int64_t tensors) {
  std::string json = R"({"__metadata__":{"format":"pt"})";
  for (int64_t i = 0; i < tensors; ++i) {
    absl::StrAppendFormat(&json, R"(,"%s":{"dtype":"F8_E4M3","shape":[7168,2048],"data_offsets":[%d,%d]})", Name(i),
                          i * kTensorBytes, (i + 1) * kTensorBytes);
  }
  return json + "}";
}

void ReportPerTensor(benchmark::State& state, int64_t tensors) {
  state.counters["per_tensor"] = benchmark::Counter(
      static_cast<double>(tensors), benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void BM_ParseHeader(benchmark::State& state) {
  const std::string text = Header(state.range(0));
  const uint64_t file_size = kHeaderPrefixBytes + text.size() + state.range(0) * kTensorBytes;
  const JsonBuffer json(text);
  for (auto _ : state) {
    auto header = ParseSafetensorsHeader(json, file_size, "model.safetensors");
    if (!header.ok()) return state.SkipWithError(header.status().ToString().c_str());
    benchmark::DoNotOptimize(header);
  }
  ReportPerTensor(state, state.range(0));
}
// 564 tensors: one shard of the 163 that hold 91,991. A million tensors have a header beyond the format's limit; the
// parser does not mind.
BENCHMARK(BM_ParseHeader)->Arg(564)->Arg(91'991)->Arg(1'000'000)->Unit(benchmark::kMillisecond);

void BM_ParseIndexFile(benchmark::State& state) {
  std::string text = R"({"metadata":{"total_size":1},"weight_map":{)";
  for (int64_t i = 0; i < state.range(0); ++i) {
    absl::StrAppendFormat(&text, "%s\"%s\": \"model-%05d-of-00163.safetensors\"", i == 0 ? "" : ",\n", Name(i),
                          i / 564 + 1);
  }
  const JsonBuffer json(text + "}}");
  for (auto _ : state) {
    auto index = ParseIndexFile(json, "model.safetensors.index.json");
    if (!index.ok()) return state.SkipWithError(index.status().ToString().c_str());
    benchmark::DoNotOptimize(index);
  }
  ReportPerTensor(state, state.range(0));
}
BENCHMARK(BM_ParseIndexFile)->Arg(91'991)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace keyload
