#include <cstddef>
#include <cstdint>

#include "tests/fuzz/expected_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  keyload::FuzzConfigJson({reinterpret_cast<const char*>(data), size});
  return 0;
}
