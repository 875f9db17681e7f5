#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/base/fd.h"
#include "server/device/device.h"

// What it costs to have a model's bytes in host memory: segments of 64 MiB are allocated and filled by two threads, in
// memory that is new or used again, from a buffer or from a file in the page cache. Huge pages are used if the system
// has enough of them: `sysctl vm.nr_hugepages=2100` before, `=0` after.
//
//   segment_bench --benchmark_repetitions=5 --benchmark_report_aggregates_only

namespace keyload {
namespace {

constexpr uint64_t kSegment = 64u << 20;
constexpr size_t kSegments = 64;
constexpr uint64_t kTotal = kSegment * kSegments;
constexpr uint64_t kBlock = 4u << 20;
constexpr uint64_t kFileBytes = 1u << 30;  // is read over and over, to leave memory for the segments
constexpr int kThreads = 2;

using Segments = std::vector<std::unique_ptr<DeviceMemory>>;

Segments Allocate(benchmark::State& state, Device& device) {
  Segments segments;
  auto reservation = device.account().Reserve(kTotal);
  for (size_t i = 0; reservation.ok() && i < kSegments; ++i) {
    auto memory = device.Allocate(*reservation, kSegment, Contents::kUnspecified);
    if (!memory.ok()) break;
    segments.push_back(*std::move(memory));
  }
  if (segments.size() < kSegments) state.SkipWithError("too little memory");
  return segments;
}

// Calls `fill(destination, offset)` for each block of the segments.
template <typename Fill>
void FillAll(const Segments& segments, Fill fill) {
  std::atomic<uint64_t> next = 0;
  std::vector<std::jthread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (uint64_t offset; (offset = next.fetch_add(kBlock)) < segments.size() * kSegment;) {
        fill(segments[offset / kSegment]->host().data() + offset % kSegment, offset);
      }
    });
  }
}

// A file of kFileBytes bytes in the page cache that is gone with the object.
class CachedFile {
 public:
  CachedFile() : fd_(::open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)) {
    const std::string block(kBlock, 'x');
    for (uint64_t written = 0; written < kFileBytes; written += kBlock) {
      if (::write(fd_.get(), block.data(), kBlock) != static_cast<ssize_t>(kBlock)) std::abort();
    }
  }
  void Read(std::byte* destination, uint64_t offset) const {
    if (::pread(fd_.get(), destination, kBlock, static_cast<off_t>(offset % kFileBytes)) !=
        static_cast<ssize_t>(kBlock)) {
      std::abort();
    }
  }

 private:
  UniqueFd fd_;
};

enum class Source { kMemory, kFile };

void AllocateAndFill(benchmark::State& state, uint64_t reuse_bytes, Source source) {
  const auto device = MakeHostDevice({.capacity_bytes = kTotal, .reuse_bytes = reuse_bytes});
  const std::string buffer(kBlock, 'x');
  const auto file = source == Source::kFile ? std::make_unique<CachedFile>() : nullptr;
  const auto fill = [&](std::byte* destination, uint64_t offset) {
    if (file != nullptr) {
      file->Read(destination, offset);
    } else {
      std::memcpy(destination, buffer.data(), kBlock);
    }
  };
  if (reuse_bytes > 0) FillAll(Allocate(state, *device), fill);  // what is used again later
  uint64_t huge = 0;
  for (auto iteration : state) {
    Segments segments = Allocate(state, *device);
    FillAll(segments, fill);
    state.PauseTiming();
    huge = device->account().state().huge;
    segments.clear();
    state.ResumeTiming();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kTotal));
  state.SetLabel(huge == kTotal ? "huge pages" : huge == 0 ? "ordinary pages" : "mixed pages");
}

BENCHMARK_CAPTURE(AllocateAndFill, new_from_memory, 0, Source::kMemory)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(AllocateAndFill, new_from_file, 0, Source::kFile)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(AllocateAndFill, reused_from_memory, kTotal, Source::kMemory)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(AllocateAndFill, reused_from_file, kTotal, Source::kFile)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace keyload
