#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "client/cli/report_text.h"
#include "google/protobuf/repeated_field.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// Bytes that a plan may put on a device, by the device's own name ("cuda:0", "cpu").
using DeviceLimits = std::map<std::string, uint64_t>;

// What a map puts on one device.
struct PlannedDevice {
  std::string device;
  std::string modules;         // in the order of the map, rows of numbers as "model.layers.0-9"
  uint64_t placed_bytes = 0;   // of the checkpoint and of missing keys
  uint64_t missing_bytes = 0;  // of it the latter
  uint64_t tensors = 0;
};

// The devices of a plan and those that it could have used: GPUs ascending, cpu, disk.
std::vector<PlannedDevice> PlannedDevices(const v1::LoadReport& report, const DeviceLimits& limits);

// A map for people: for each device a bar of how full it is, bytes, headroom, and its modules in order. A device
// without a limit (disk) has no bar.
std::string PlanMapText(const std::vector<PlannedDevice>& devices, const DeviceLimits& limits);

}  // namespace keyload::cli
