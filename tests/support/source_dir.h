#pragma once

#include <string>

namespace keyload {

// The root of the source tree, for tests that read its files: the environment variable KEYLOAD_SOURCE_DIR, which ctest
// sets. A test program that is started by hand without it ends with code 2 and says how to set it.
std::string SourceDir();

}  // namespace keyload
