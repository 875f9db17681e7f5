#include "tests/support/failing_heap.h"

#include <cstdint>
#include <cstdlib>
#include <new>

namespace keyload {
namespace {

constinit thread_local size_t left = SIZE_MAX;  // allocations that succeed; SIZE_MAX: all
constinit thread_local size_t refusals = 0;

}  // namespace

FailingHeap::FailingHeap(size_t first) {
  refusals = 0;
  left = first - 1;
}

FailingHeap::~FailingHeap() { left = SIZE_MAX; }

size_t FailingHeap::refused() const { return refusals; }

}  // namespace keyload

void* operator new(size_t bytes) {
  using namespace keyload;
  if (left == 0) {
    ++refusals;
    throw std::bad_alloc();
  }
  if (left != SIZE_MAX) --left;
  void* const memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t /*bytes*/) noexcept { std::free(memory); }
