#include "client/cli/device_text.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "client/cli/table.h"
#include "server/base/byte_size.h"

namespace keyload::cli {
namespace {

constexpr int kEntriesShown = 20;

std::string DeviceName(const std::string& device, bool simulated) {
  return simulated ? device + " (simulated)" : device;
}

}  // namespace

std::string DeviceUseText(const google::protobuf::RepeatedPtrField<v1::DeviceUse>& devices) {
  if (devices.empty()) return "";
  Table table({{"device"},
               {"tensors", Table::kRight},
               {"size", Table::kRight},
               {"reserved", Table::kRight},
               {"copied", Table::kRight},
               {"missing", Table::kRight}});
  for (const v1::DeviceUse& use : devices) {
    table.AddRow({DeviceName(use.device(), use.simulated()), std::to_string(use.tensors()),
                  FormatByteSize(use.tensor_bytes()), FormatByteSize(use.reserved_bytes()),
                  FormatByteSize(use.copied_bytes()), FormatByteSize(use.missing_bytes())});
  }
  return "\n" + table.Render();
}

std::string DeviceMapText(const google::protobuf::RepeatedPtrField<v1::MapEntry>& map) {
  if (map.empty()) return "";
  Table table({{"module"}, {"device"}});
  int shown = std::min(map.size(), kEntriesShown);
  for (int i = 0; i < shown; ++i) {
    table.AddRow({map[i].module().empty() ? "(everything)" : map[i].module(), map[i].device()});
  }
  std::string out = "\n" + table.Render();
  if (map.size() > shown) out += absl::StrFormat("and %d more: --json prints them all\n", map.size() - shown);
  return out;
}

std::string DevicesText(const v1::ListDevicesResponse& devices) {
  Table table({{"device"},
               {"name"},
               {"capacity", Table::kRight},
               {"free", Table::kRight},
               {"used", Table::kRight},
               {"reserved", Table::kRight},
               {"state"}});
  for (const v1::Device& device : devices.devices()) {
    table.AddRow({DeviceName(device.device(), device.simulated()), device.name(),
                  FormatByteSize(device.capacity_bytes()), FormatByteSize(device.free_bytes()),
                  FormatByteSize(device.used_bytes()), FormatByteSize(device.reserved_bytes()), device.state()});
  }
  std::string out = table.Render();
  for (const std::string& note : devices.notes()) out += "note: " + note + "\n";
  return out;
}

}  // namespace keyload::cli
