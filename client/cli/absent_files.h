#pragma once

#include <string>
#include <vector>

namespace keyload::cli {

// The files that a checkpoint's index names and that are not there, by name: what a downloader has to fetch. `weights`
// is --weights. Looks at the standard index or the only one; empty where there is none, or one that cannot be read, of
// which the server says what is wrong.
std::vector<std::string> AbsentFiles(const std::string& directory, const std::string& weights);

}  // namespace keyload::cli
