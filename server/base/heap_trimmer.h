#pragma once

#include <cstddef>
#include <thread>

#include "server/base/mutex.h"

namespace keyload {

// Gives heap that was freed back to the system once the process is at rest: malloc keeps it, and after a large plan, or
// after a thousand connections, that is hundreds of megabytes which nobody uses. A thread looks each second; while heap
// comes and goes it leaves everything where it is, as the next plan finds the pages of the last one.
class HeapTrimmer {
 public:
  HeapTrimmer();
  ~HeapTrimmer();
  HeapTrimmer(const HeapTrimmer&) = delete;
  HeapTrimmer& operator=(const HeapTrimmer&) = delete;

 private:
  void Run();

  Mutex mutex_;
  CondVar ended_;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// Whether `free_bytes` of free heap are to be given back: they are those of the look before, or nearly, and more than
// were left after the last time. Confine to one thread.
class TrimDecision {
 public:
  bool Look(size_t free_bytes);
  // After what was free went back; malloc counts pages that it gave back as free too.
  void Trimmed(size_t free_bytes) { left_ = free_bytes; }

 private:
  size_t left_ = 0;
  size_t before_ = 0;
};

}  // namespace keyload
