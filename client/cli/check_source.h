#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace keyload::cli {

// What `check` looks at.
struct CheckSource {
  std::string path;
  std::string why;  // how it was found below the path of the command line; empty if it is that path
};

// A repository of the Hugging Face cache (a directory with `snapshots`) stands for the snapshot that its refs/main
// names, or for its only one; every other path for itself. UsageError if refs/main names one that is not there, or
// names none of several.
absl::StatusOr<CheckSource> FindCheckSource(const std::string& path);

// One line or more for people: which set of weights of the directory the server takes, why, and which others are there.
// `weights` is what the command line chose. Empty for a file, and where nothing is to be told.
std::string WeightsText(const CheckSource& source, const std::string& weights);

}  // namespace keyload::cli
