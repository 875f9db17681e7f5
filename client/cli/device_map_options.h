#pragma once

#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// The flags that say where tensors go, as they were given.
struct DeviceMapOptions {
  std::string device_map;  // POLICY | DEVICE | FILE.json | @NAME
  std::string max_memory;  // "0=20GiB,cpu=64GiB"
  std::vector<std::string> no_split;
  bool offload_buffers = false;
  bool fallback_allocation = false;
  std::string plan_for;  // "8x141GiB"
};

// Adds the flags to `app`; `options` must outlive its parsing.
void AddDeviceMapOptions(CLI::App& app, DeviceMapOptions& options);
void AddPlanForOption(CLI::App& app, DeviceMapOptions& options);

// Reads the file that --device-map may name. UsageError on a wrong flag or file.
absl::StatusOr<v1::DeviceMapSpec> BuildDeviceMapSpec(const DeviceMapOptions& options);

}  // namespace keyload::cli
