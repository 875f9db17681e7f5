#include "client/cli/progress_bar.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "server/base/byte_size.h"

namespace keyload::cli {
namespace {

constexpr int kProgressWidth = 30;

std::string Filled(uint64_t done, uint64_t total) {
  double part = total == 0 ? 0.0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  int filled = static_cast<int>(part * kProgressWidth);
  return "[" + std::string(filled, '#') + std::string(kProgressWidth - filled, '.') + "]";
}

}  // namespace

std::string ProgressLine(const v1::LoadProgress& progress, double bytes_per_second) {
  if (progress.queue_position() > 0) {
    return absl::StrFormat(progress.phase() == "memory" ? "waits for memory, position %d" : "queued, position %d",
                           progress.queue_position());
  }
  std::string line =
      absl::StrFormat("%-10s %s %s of %s", progress.phase(), Filled(progress.bytes_done(), progress.bytes_total()),
                      FormatByteSize(progress.bytes_done()), FormatByteSize(progress.bytes_total()));
  if (bytes_per_second > 0) line += absl::StrFormat(", %s/s", FormatByteSize(static_cast<uint64_t>(bytes_per_second)));
  if (progress.tensors_total() > 0) {
    line += absl::StrFormat(", %d of %d tensors", progress.tensors_done(), progress.tensors_total());
  }
  return line;
}

void ProgressBar::Update(const v1::LoadProgress& progress, absl::Time now) {
  if (terminal_ == nullptr) return;
  if (!drawn_ || progress.phase() != phase_) {
    phase_ = progress.phase();
    phase_start_ = now;
    phase_start_bytes_ = progress.bytes_done();
  }
  double seconds = absl::ToDoubleSeconds(now - phase_start_);
  bool moved = seconds > 0 && progress.bytes_done() > phase_start_bytes_;
  double rate = moved ? static_cast<double>(progress.bytes_done() - phase_start_bytes_) / seconds : 0;
  std::fprintf(terminal_, "\r\x1b[K%s", ProgressLine(progress, rate).c_str());
  std::fflush(terminal_);
  drawn_ = true;
}

void ProgressBar::Clear() {
  if (!drawn_) return;
  std::fputs("\r\x1b[K", terminal_);
  std::fflush(terminal_);
  drawn_ = false;
}

}  // namespace keyload::cli
