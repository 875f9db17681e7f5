// The keyload command: flags to a command, the command's exit code out.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "CLI/CLI.hpp"
#include "absl/time/clock.h"
#include "client/cli/command_context.h"
#include "client/cli/commands.h"
#include "client/cli/connection_options.h"
#include "client/cli/exit_code.h"
#include "client/cli/signal_watcher.h"

namespace keyload::cli {
namespace {

struct Globals {
  ConnectionFlags connection;
  std::string timeout;
  bool json = false;
};

void AddGlobals(CLI::App& app, Globals& globals) {
  AddConnectionFlags(app, globals.connection);
  app.add_flag("--json", globals.json, "One JSON document on standard output and nothing else there");
  app.add_option("--timeout", globals.timeout, "Limit for the whole command: 90, 90s, 1m30s")->type_name("D");
}

// The command line may be wrong before --json is reached, and still the answer must be JSON.
bool AsksForJson(int argc, char** argv) {
  return std::any_of(argv + 1, argv + argc,
                     [](const char* argument) { return std::string_view(argument) == "--json"; });
}

int Main(int argc, char** argv) {
  CLI::App app("Loads checkpoints into a node's memory through keyloadd.", "keyload");
  app.require_subcommand(1)->fallthrough();
  Globals globals;
  Action chosen;
  AddGlobals(app, globals);
  AddLoadCommands(app, chosen);
  AddCheckCommand(app, chosen);
  AddDiffCommand(app, chosen);
  AddModelCommands(app, chosen);
  AddServerCommands(app, chosen);
  AddMapCommands(app, chosen);
  CommandContext context;
  context.json = argc > 1 && AsksForJson(argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    return Fail(context, UsageError(error.what()));
  }
  if (!globals.timeout.empty()) {
    auto timeout = ParseTimeout(globals.timeout);
    if (!timeout.ok()) return Fail(context, timeout.status());
    context.deadline = absl::Now() + *timeout;
  }
  auto signals = SignalWatcher::Create();
  if (!signals.ok()) return Fail(context, signals.status());
  context.connection = globals.connection;
  context.stop = (*signals)->token();
  context.style.colour = ::isatty(STDOUT_FILENO) == 1;
  context.progress = ::isatty(STDERR_FILENO) == 1 ? stderr : nullptr;
  const char* path = std::getenv("PATH");
  context.search_path = path == nullptr ? "" : path;
  const char* traceparent = std::getenv("TRACEPARENT");
  context.traceparent = traceparent == nullptr ? "" : traceparent;
  const int code = chosen(context);
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    std::fputs("keyload: standard output cannot be written\n", stderr);
    return kExitFailed;
  }
  return code;
}

}  // namespace
}  // namespace keyload::cli

int main(int argc, char** argv) {
  ::setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);  // what it would write is in the error that is printed
  return keyload::cli::Main(argc, argv);
}
