#pragma once

#include "CLI/CLI.hpp"
#include "client/cli/command_context.h"

namespace keyload::cli {

// Each adds its subcommands to `app`. Parsing sets `chosen` to the one that the command line names; both must outlive
// that.
void AddLoadCommands(CLI::App& app, Action& chosen);    // load, plan
void AddCheckCommand(CLI::App& app, Action& chosen);    // check
void AddDiffCommand(CLI::App& app, Action& chosen);     // diff
void AddModelCommands(CLI::App& app, Action& chosen);   // unload, list, show, keys, read, materialize, evict
void AddServerCommands(CLI::App& app, Action& chosen);  // devices, health, info, version, loads, cancel, wait, leases
void AddMapCommands(CLI::App& app, Action& chosen);     // map set, show, list, rm

}  // namespace keyload::cli
