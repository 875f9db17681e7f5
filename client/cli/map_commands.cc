#include <map>
#include <memory>
#include <string>

#include "client/cli/commands.h"
#include "client/cli/device_map_options.h"
#include "client/cli/table.h"

namespace keyload::cli {
namespace {

struct MapOptions {
  std::string name;
  DeviceMapOptions device_map;
};

using MapRun = int (*)(const CommandContext&, Client&, const MapOptions&);

std::string MapText(const v1::NamedDeviceMap& map) {
  std::string out = map.name() + (map.spec().policy().empty() ? "" : ": " + map.spec().policy()) + "\n";
  if (map.spec().entries().empty()) return out;
  Table table({{"module"}, {"device"}});
  std::map<std::string, std::string> sorted(map.spec().entries().begin(), map.spec().entries().end());
  for (const auto& [module, device] : sorted) table.AddRow({module.empty() ? "(everything)" : module, device});
  return out + table.Render();
}

int PrintMap(const CommandContext& context, const absl::StatusOr<v1::NamedDeviceMap>& map) {
  if (!map.ok()) return Fail(context, map.status());
  context.json ? PrintJson(ToJson(*map)) : PrintText(MapText(*map));
  return 0;
}

int RunSet(const CommandContext& context, Client& client, const MapOptions& options) {
  auto spec = BuildDeviceMapSpec(options.device_map);
  if (!spec.ok()) return Fail(context, spec.status());
  v1::NamedDeviceMap map;
  map.set_name(options.name);
  *map.mutable_spec() = *std::move(spec);
  return PrintMap(context, client.SetDeviceMap(map, context.Options()));
}

int RunShowMap(const CommandContext& context, Client& client, const MapOptions& options) {
  return PrintMap(context, client.GetDeviceMap(options.name, context.Options()));
}

int RunListMaps(const CommandContext& context, Client& client, const MapOptions&) {
  auto maps = client.ListDeviceMaps(context.Options());
  if (!maps.ok()) return Fail(context, maps.status());
  if (context.json) {
    PrintJson(ToJson(*maps));
  } else {
    for (const v1::NamedDeviceMap& map : maps->device_maps()) PrintText(map.name() + "\n");
  }
  return 0;
}

int RunRemove(const CommandContext& context, Client& client, const MapOptions& options) {
  absl::Status status = client.DeleteDeviceMap(options.name, context.Options());
  if (!status.ok()) return Fail(context, status);
  context.json ? PrintJson(Json::object()) : PrintText("removed " + options.name + "\n");
  return 0;
}

CLI::App* AddMapCommand(CLI::App& app, Action& chosen, const std::string& name, const std::string& help,
                        std::shared_ptr<MapOptions> options, MapRun run) {
  CLI::App* command = app.add_subcommand(name, help);
  command->callback([&chosen, options, run] {
    chosen = [options, run](const CommandContext& context) {
      auto client = context.Connect();
      return client.ok() ? run(context, **client, *options) : Fail(context, client.status());
    };
  });
  return command;
}

}  // namespace

void AddMapCommands(CLI::App& app, Action& chosen) {
  CLI::App* map = app.add_subcommand("map", "Device maps that the server keeps by name")->require_subcommand(1);
  auto options = std::make_shared<MapOptions>();
  CLI::App* set = AddMapCommand(*map, chosen, "set", "Keep a map", options, RunSet);
  AddDeviceMapOptions(*set, options->device_map);
  CLI::App* show = AddMapCommand(*map, chosen, "show", "Print a map", options, RunShowMap);
  AddMapCommand(*map, chosen, "list", "The names of all maps", options, RunListMaps);
  CLI::App* remove = AddMapCommand(*map, chosen, "rm", "Forget a map", options, RunRemove);
  for (CLI::App* command : {set, show, remove}) {
    command->add_option("NAME", options->name, "Name of the map")->required();
  }
}

}  // namespace keyload::cli
