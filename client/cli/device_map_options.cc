#include "client/cli/device_map_options.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/cli/exit_code.h"
#include "client/cli/input_file.h"
#include "nlohmann/json.hpp"
#include "server/base/byte_size.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

constexpr uint32_t kMaxPlannedDevices = 1024;

absl::StatusOr<uint64_t> ParseSizeFlag(const std::string& flag, const std::string& text) {
  absl::StatusOr<uint64_t> bytes = ParseByteSize(text);
  if (!bytes.ok()) return UsageError(absl::StrFormat("%s: %s", flag, std::string(bytes.status().message())));
  return bytes;
}

// {"module": "device", ...}; a device may be a bare integer.
absl::Status ReadEntries(const std::string& path, v1::DeviceMapSpec& spec) {
  KEYLOAD_ASSIGN_OR_RETURN(std::string text, ReadInputFile(path));
  std::set<std::string> seen;
  std::string repeated;
  auto note_keys = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    if (event == nlohmann::json::parse_event_t::key && !seen.insert(value.get<std::string>()).second) {
      repeated = value.get<std::string>();
    }
    return true;
  };
  const auto document = nlohmann::json::parse(text, note_keys, /*allow_exceptions=*/false);
  if (!document.is_object()) return UsageError(path + ": not a JSON object of module to device");
  if (!repeated.empty()) return UsageError(absl::StrFormat("%s: \"%s\" is named twice", path, repeated));
  for (const auto& [module, device] : document.items()) {
    if (!device.is_string() && !device.is_number_unsigned()) {
      return UsageError(absl::StrFormat("%s: \"%s\": the device is neither a name nor a number", path, module));
    }
    (*spec.mutable_entries())[module] = device.is_string() ? device.get<std::string>() : device.dump();
  }
  return absl::OkStatus();
}

absl::Status ParseMaxMemory(const std::string& text, v1::DeviceMapSpec& spec) {
  for (const std::string& item : std::vector<std::string>(absl::StrSplit(text, ','))) {
    const size_t equals = std::min(item.find('='), item.size());
    std::string device = item.substr(0, equals);
    absl::StripAsciiWhitespace(&device);
    if (equals == item.size() || device.empty()) {
      return UsageError(absl::StrFormat("--max-memory: \"%s\" is not DEVICE=SIZE, as 0=20GiB or cpu=64GiB is", item));
    }
    KEYLOAD_ASSIGN_OR_RETURN(uint64_t bytes, ParseSizeFlag("--max-memory", item.substr(equals + 1)));
    if (!spec.mutable_max_memory()->insert({device, bytes}).second) {
      return UsageError(absl::StrFormat("--max-memory: %s is named twice", device));
    }
  }
  return absl::OkStatus();
}

// Limits exclude what they do not name. Of planned GPUs the size is said already, so that limits for the host alone add
// the host to them.
void AddPlannedGpus(v1::DeviceMapSpec& spec) {
  auto& limits = *spec.mutable_max_memory();
  const bool host_only = std::all_of(limits.begin(), limits.end(),
                                     [](const auto& limit) { return limit.first == "cpu" || limit.first == "disk"; });
  if (limits.empty() || !host_only) return;
  for (const v1::VirtualDevice& device : spec.plan_for()) limits[device.device()] = device.bytes();
}

absl::Status ParsePlanFor(const std::string& text, v1::DeviceMapSpec& spec) {
  size_t x = text.find('x');
  uint32_t count = 0;
  if (x == std::string::npos || !absl::SimpleAtoi(text.substr(0, x), &count) || count == 0 ||
      count > kMaxPlannedDevices) {
    return UsageError(absl::StrFormat("--plan-for: \"%s\" is not COUNTxSIZE, as 8x141GiB is", text));
  }
  KEYLOAD_ASSIGN_OR_RETURN(uint64_t bytes, ParseSizeFlag("--plan-for", text.substr(x + 1)));
  for (uint32_t i = 0; i < count; ++i) {
    v1::VirtualDevice& device = *spec.add_plan_for();
    device.set_device("cuda:" + std::to_string(i));
    device.set_bytes(bytes);
  }
  return absl::OkStatus();
}

}  // namespace

void AddDeviceMapOptions(CLI::App& app, DeviceMapOptions& options) {
  app.add_option(
         "--device-map", options.device_map,
         "auto, balanced, balanced_low_0, sequential, packed; a device; a JSON file of module to device; @NAME of "
         "a map that the server keeps")
      ->type_name("POLICY|DEVICE|FILE.json|@NAME");
  app.add_option("--max-memory", options.max_memory, "Limit per device; devices that are not named are not used")
      ->type_name("DEVICE=SIZE,...");
  app.add_option("--no-split", options.no_split, "Module classes that stay whole on one device")
      ->type_name("CLASS,...")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_flag("--offload-buffers", options.offload_buffers, "Offload buffers with their module");
  app.add_flag("--fallback-allocation", options.fallback_allocation,
               "Try smaller modules where a whole one does not fit");
}

void AddPlanForOption(CLI::App& app, DeviceMapOptions& options) {
  app.add_option("--plan-for", options.plan_for, "Plan for GPUs that are not here")->type_name("COUNTxSIZE");
}

absl::StatusOr<v1::DeviceMapSpec> BuildDeviceMapSpec(const DeviceMapOptions& options) {
  v1::DeviceMapSpec spec;
  const std::string& map = options.device_map;
  if (map == "@") return UsageError("--device-map: \"@\" names no map");
  if (map.starts_with('@')) {
    spec.set_name(map.substr(1));
  } else if (map.ends_with(".json")) {
    KEYLOAD_RETURN_IF_ERROR(ReadEntries(map, spec));
  } else {
    // Without a map a plan for other hardware spreads over that hardware: a map of the host would say nothing about it.
    spec.set_policy(map.empty() && !options.plan_for.empty() ? "auto" : map);
  }
  if (!options.max_memory.empty()) KEYLOAD_RETURN_IF_ERROR(ParseMaxMemory(options.max_memory, spec));
  spec.mutable_no_split_classes()->Add(options.no_split.begin(), options.no_split.end());
  spec.set_offload_buffers(options.offload_buffers);
  spec.set_fallback_allocation(options.fallback_allocation);
  if (!options.plan_for.empty()) KEYLOAD_RETURN_IF_ERROR(ParsePlanFor(options.plan_for, spec));
  AddPlannedGpus(spec);
  return spec;
}

}  // namespace keyload::cli
