#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "benchmark/benchmark.h"

namespace keyload {

// Names as a mixture-of-experts model has them: 256 experts of three weights with their scales per layer.
inline std::vector<std::string> ModelKeyNames(int64_t count) {
  std::vector<std::string> names;
  names.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    constexpr const char* kProjections[] = {"gate_proj", "up_proj", "down_proj"};
    constexpr const char* kTensors[] = {"weight", "weight_scale_inv"};
    names.push_back(absl::StrFormat("model.layers.%d.mlp.experts.%d.%s.%s", i / 1536, i / 6 % 256,
                                    kProjections[i / 2 % 3], kTensors[i % 2]));
  }
  return names;
}

// 91,991 keys, and that doubled up to 1.5 million. bench/scaling.py compares the times.
inline void DoublingKeys(benchmark::internal::Benchmark* bench) {
  for (int64_t keys = 91'991; keys <= 1'500'000; keys *= 2) bench->Arg(keys);
  bench->Unit(benchmark::kMillisecond);
}

inline void ReportPerKey(benchmark::State& state) {
  state.counters["per_key"] = benchmark::Counter(
      static_cast<double>(state.range(0)), benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

}  // namespace keyload
