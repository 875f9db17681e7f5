#include "server/base/heap_trimmer.h"

#include <malloc.h>

#include <algorithm>
#include <chrono>

namespace keyload {
namespace {

constexpr std::chrono::seconds kInterval(1);
constexpr size_t kWorthwhile = 8 << 20;
constexpr size_t kRest = 1 << 20;

size_t FreeBytes() { return mallinfo2().fordblks; }

}  // namespace

bool TrimDecision::Look(size_t free_bytes) {
  const size_t moved = std::max(free_bytes, before_) - std::min(free_bytes, before_);
  before_ = free_bytes;
  left_ = std::min(left_, free_bytes);
  return moved < kRest && free_bytes - left_ >= kWorthwhile;
}

HeapTrimmer::HeapTrimmer() : thread_([this] { Run(); }) {}

HeapTrimmer::~HeapTrimmer() {
  {
    MutexLock lock(mutex_);
    ending_ = true;
    ended_.NotifyAll();
  }
  thread_.join();
}

void HeapTrimmer::Run() {
  TrimDecision decision;
  MutexLock lock(mutex_);
  while (!ending_) {
    ended_.WaitFor(mutex_, kInterval);
    if (!decision.Look(FreeBytes())) continue;
    malloc_trim(0);
    decision.Trimmed(FreeBytes());
  }
}

}  // namespace keyload
