#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "client/cli/device_map_options.h"
#include "client/cli/selection_options.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// The flags of load, plan and check, as they were given.
struct LoadOptions {
  std::string model;
  std::string from;
  std::string manifest;  // file of the caller's
  std::string expected;
  std::string like;  // directory of another checkpoint
  DeviceMapOptions device_map;
  SelectionOptions select;
  LimitOptions limits;
  bool report_only = false;
  bool lazy = false;
  bool copy = false;
  std::string reserve;
  std::string dtype;
  std::string missing;
  std::optional<std::string> base_prefix;
  std::vector<std::string> renames;  // PATTERN=>REPLACEMENT, or auto
  bool allow_no_weights = false;
  std::string weights;
  std::string if_exists;
  bool detach = false;
  std::string request_id;
  int32_t priority = 0;
  std::string wait_memory;
  bool warm = false;
  bool hold = false;
  bool drop_cache = false;
  uint32_t names = 0;
  std::string trace;
};

// What a request needs: the spec, and what goes into it when its documents are on the server.
struct LoadInput {
  v1::LoadSpec spec;  // without its selection
  SelectionInput selection;
  std::optional<std::string> manifest;  // binary; digest to expected.manifest_digest
};

// Adds the flags to `app`; `options` must outlive its parsing. Not the model and the path, which differ by command.
void AddLoadOptions(CLI::App& app, LoadOptions& options);

// Adds --report-only, with which keys that are missing or of another shape are no reason to end with 1.
void AddReportOnlyOption(CLI::App& app, bool& report_only);

// Adds --trace, the file that FinishWithReport writes. One that could not be written is a usage error, so that nobody
// waits for a load to hear of it.
void AddTraceOption(CLI::App& app, std::string& trace);

// Reads the files that the flags name; a relative `from` is made absolute against `directory`. UsageError on anything
// that the request could not express.
absl::StatusOr<LoadInput> BuildLoadInput(const LoadOptions& options, const std::filesystem::path& directory);

}  // namespace keyload::cli
