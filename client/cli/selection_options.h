#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "keyload/client.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// Which keys, as the flags say.
struct SelectionOptions {
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  std::string keys_file;  // names, one a line; a file of the caller's
};

// When too many keys are wrong, as the flags say.
struct LimitOptions {
  bool strict = false;
  std::optional<uint64_t> max_missing;
  std::optional<uint64_t> max_unexpected;
  std::optional<uint64_t> max_mismatched;
};

// A selection, and the document that it needs on the server, if the list of its names is long.
struct SelectionInput {
  v1::KeySelection select;
  std::optional<std::string> key_list;  // names, one a line; digest to select.key_list_digest
};

// Each adds flags to `app`; `options` must outlive its parsing.
void AddSelectionOptions(CLI::App& app, SelectionOptions& options);
void AddLimitOptions(CLI::App& app, LimitOptions& options);

// Reads the file of names. UsageError if it cannot be read or names no key, which would select every one.
absl::StatusOr<SelectionInput> BuildSelection(const SelectionOptions& options);

// Nothing if no flag was given.
std::optional<v1::Limits> BuildLimits(const LimitOptions& options);

// The selection with its list of names on the server. Blocks until that is there; the client's errors.
absl::StatusOr<v1::KeySelection> UploadKeyList(Client& client, SelectionInput input, const CallOptions& options);

}  // namespace keyload::cli
