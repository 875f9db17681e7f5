#include "tests/support/source_dir.h"

#include <cstdio>
#include <cstdlib>

namespace keyload {

std::string SourceDir() {
  const char* directory = std::getenv("KEYLOAD_SOURCE_DIR");
  if (directory == nullptr || *directory == '\0') {
    std::fprintf(stderr,
                 "This test reads files of the source tree and does not know where that is. Run it with ctest, or "
                 "set KEYLOAD_SOURCE_DIR to the root of the repository.\n");
    std::exit(2);
  }
  return directory;
}

}  // namespace keyload
