#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/checkpoint/dtype.h"
#include "server/keys/manifest.h"

namespace keyload {

// A checkpoint that was saved from a wrapped model (torch.compile, DistributedDataParallel, PEFT ...) or from another
// version of it has all its tensors, under names that differ in one place: then everything is missing and everything is
// unexpected. What differs can be found by comparing names, and be said as a rename.

struct NamedShape {
  std::string_view name;
  const Shape* shape = nullptr;
};

struct RenameSuggestion {
  std::vector<Rename> renames;  // in order, after those of the request; empty: nothing common was found
  std::string what;             // what they do: "without the prefix "module.""
  bool replaces = false;        // one of them puts a name for another one, which may be an accident
};

// What makes most names of `spare` (stored, but not expected) those of `lacking` (expected, but not stored), with equal
// shapes: prefixes of whole components to strip, add or exchange, a component to remove wherever it stands, or one to
// exchange for another; up to four in a row. Of `spare` at most 512 names are looked at, spread evenly. Linear in
// the names of `lacking`. The errors of `check`.
absl::StatusOr<RenameSuggestion> SuggestRenames(std::span<const NamedShape> lacking, std::span<const NamedShape> spare,
                                                PeriodicCheck& check);

// The renames as the command takes them: "--rename '^module\\.=>'". Shortened.
std::string RenameFlags(std::span<const Rename> renames);

}  // namespace keyload
