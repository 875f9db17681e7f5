#pragma once

#include <cstdio>
#include <string>

#include "absl/time/time.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// One line: phase, bar, bytes, rate, tensors. The rate is left out while it is 0.
std::string ProgressLine(const v1::LoadProgress& progress, double bytes_per_second);

// Redraws one line of a terminal and wipes it at the end. Not thread-safe.
class ProgressBar {
 public:
  // `terminal` must outlive this object; null draws nothing.
  explicit ProgressBar(std::FILE* terminal) : terminal_(terminal) {}
  ~ProgressBar() { Clear(); }
  ProgressBar(const ProgressBar&) = delete;

  void Update(const v1::LoadProgress& progress, absl::Time now);
  void Clear();

 private:
  std::FILE* const terminal_;
  bool drawn_ = false;
  std::string phase_;
  absl::Time phase_start_;
  uint64_t phase_start_bytes_ = 0;
};

}  // namespace keyload::cli
