#include <memory>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/device_text.h"
#include "client/cli/exit_code.h"
#include "client/cli/gate_verdict.h"
#include "client/cli/load_options.h"
#include "client/cli/model_text.h"
#include "client/cli/progress_bar.h"

namespace keyload::cli {
namespace {

struct ServerOptions {
  std::string argument;  // the name that the command is about
  std::string trace;
  bool report_only = false;
};

using ServerRun = int (*)(const CommandContext&, Client&, const ServerOptions&);

int RunDevices(const CommandContext& context, Client& client, const ServerOptions&) {
  auto devices = client.ListDevices(context.Options());
  if (!devices.ok()) return Fail(context, devices.status());
  context.json ? PrintJson(ToJson(*devices)) : PrintText(DevicesText(*devices));
  return 0;
}

const char* ServingWord(ServingStatus status) {
  switch (status) {
    case ServingStatus::kServing:
      return "SERVING";
    case ServingStatus::kNotServing:
      return "NOT_SERVING";
    case ServingStatus::kServiceUnknown:
      return "SERVICE_UNKNOWN";
    case ServingStatus::kUnknown:
      break;
  }
  return "UNKNOWN";
}

int RunHealth(const CommandContext& context, Client& client, const ServerOptions& options) {
  auto status = client.Health(options.argument, context.Options());
  if (!status.ok()) return Fail(context, status.status());
  const std::string word = ServingWord(*status);
  context.json ? PrintJson(Json{{"status", word}}) : PrintText(word + "\n");
  return *status == ServingStatus::kServing ? kExitDone : kExitFailed;
}

int RunInfo(const CommandContext& context, Client& client, const ServerOptions&) {
  auto info = client.GetServerInfo(context.Options());
  if (!info.ok()) return Fail(context, info.status());
  context.json ? PrintJson(ToJson(*info)) : PrintText(ServerInfoText(*info));
  return 0;
}

int RunLoads(const CommandContext& context, Client& client, const ServerOptions&) {
  auto loads = client.ListLoads(context.Options());
  if (!loads.ok()) return Fail(context, loads.status());
  context.json ? PrintJson(Json{{"loads", ToJsonList(*loads)}}) : PrintText(LoadsText(*loads));
  return 0;
}

int RunCancel(const CommandContext& context, Client& client, const ServerOptions& options) {
  const std::string& load = options.argument;
  absl::Status status = client.CancelLoad(load, context.Options());
  if (!status.ok()) return Fail(context, status);
  context.json ? PrintJson(Json::object()) : PrintText("cancelled " + load + "\n");
  return 0;
}

int RunWait(const CommandContext& context, Client& client, const ServerOptions& options) {
  ProgressBar bar(context.progress);
  LoadCallbacks callbacks;
  callbacks.on_progress = [&bar](const v1::LoadProgress& progress) { bar.Update(progress, absl::Now()); };
  auto status = client.WatchLoad(options.argument, callbacks, context.Options());
  bar.Clear();
  if (!status.ok()) return FinishWithReport(context, status.status(), options.trace);
  if (status->has_report()) {
    const GateRules rules = {.report_only = options.report_only, .loads = true};
    return FinishWithReport(context, status->report(), options.trace, Judge(status->report(), rules).code);
  }
  const v1::LoadError& error = status->error();
  const absl::Status failed = WithErrorInfo(
      absl::Status(static_cast<absl::StatusCode>(error.code()), error.message()),
      {.reason = error.reason(), .domain = "keyload", .metadata = {error.metadata().begin(), error.metadata().end()}});
  return FinishWithReport(context, failed, options.trace);
}

int RunLeases(const CommandContext& context, Client& client, const ServerOptions& options) {
  auto leases = client.ListLeases(options.argument, context.Options());
  if (!leases.ok()) return Fail(context, leases.status());
  context.json ? PrintJson(ToJson(*leases)) : PrintText(LeasesText(*leases));
  return 0;
}

int RunVersion(const CommandContext& context) {
  context.json ? PrintJson(Json{{"version", KEYLOAD_VERSION}}) : PrintText("keyload " KEYLOAD_VERSION "\n");
  return 0;
}

struct AddedServerCommand {
  CLI::App* command;
  std::shared_ptr<ServerOptions> options;
};

AddedServerCommand AddServerCommand(CLI::App& app, Action& chosen, const std::string& name, const std::string& help,
                                    ServerRun run) {
  auto options = std::make_shared<ServerOptions>();
  CLI::App* command = app.add_subcommand(name, help);
  command->callback([&chosen, options, run] {
    chosen = [options, run](const CommandContext& context) {
      auto client = context.Connect();
      return client.ok() ? run(context, **client, *options) : Fail(context, client.status());
    };
  });
  return {command, options};
}

}  // namespace

void AddServerCommands(CLI::App& app, Action& chosen) {
  AddServerCommand(app, chosen, "devices", "The devices of the node and their memory", RunDevices);
  AddedServerCommand health =
      AddServerCommand(app, chosen, "health", "Ends with 0 if the server is serving", RunHealth);
  health.command->add_option("SERVICE", health.options->argument,
                             "Ask for this one: liveness, readiness or a gRPC service");
  AddServerCommand(app, chosen, "info", "Version, capabilities and limits of the server", RunInfo);
  app.add_subcommand("version", "Version of this command")->callback([&chosen] { chosen = RunVersion; });
  AddServerCommand(app, chosen, "loads", "Running loads and those that ended lately", RunLoads);
  AddedServerCommand cancel = AddServerCommand(app, chosen, "cancel", "Cancel a load", RunCancel);
  cancel.command->add_option("LOAD", cancel.options->argument, "Name of the load")->required();
  AddedServerCommand wait = AddServerCommand(app, chosen, "wait", "Wait for a load and print its report", RunWait);
  wait.command->add_option("LOAD", wait.options->argument, "Name of the load")->required();
  AddTraceOption(*wait.command, wait.options->trace);
  AddReportOnlyOption(*wait.command, wait.options->report_only);
  AddedServerCommand leases = AddServerCommand(app, chosen, "leases", "The leases on a model, or on all", RunLeases);
  leases.command->add_option("MODEL", leases.options->argument, "Only leases on this model");
}

}  // namespace keyload::cli
