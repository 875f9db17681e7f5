#pragma once

#include <cstddef>

namespace keyload {

// While it lives, allocations of this thread throw std::bad_alloc from the one of number `first` on, counted from 1.
// One at a time on a thread. Programs that link it have an operator new of their own.
class FailingHeap {
 public:
  explicit FailingHeap(size_t first);
  ~FailingHeap();
  FailingHeap(const FailingHeap&) = delete;

  // How many allocations were refused so far.
  size_t refused() const;
};

}  // namespace keyload
