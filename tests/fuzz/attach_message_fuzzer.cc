#include <cstddef>
#include <cstdint>

#include "tests/fuzz/attach_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  keyload::FuzzAttachMessage({reinterpret_cast<const char*>(data), size});
  return 0;
}
