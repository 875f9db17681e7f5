#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/load_options.h"
#include "client/cli/plan_run.h"
#include "client/cli/progress_bar.h"

namespace keyload::cli {
namespace {

absl::StatusOr<v1::LoadReport> LoadWithProgress(const CommandContext& context, Client& client,
                                                const v1::LoadSpec& spec) {
  ProgressBar bar(context.progress);
  LoadCallbacks callbacks;
  callbacks.on_progress = [&bar](const v1::LoadProgress& progress) { bar.Update(progress, absl::Now()); };
  return client.Load(spec, callbacks, context.Options());
}

int RunLoad(const CommandContext& context, const LoadOptions& options) {
  auto input = ReadInput(options);
  if (!input.ok()) return Fail(context, input.status());
  auto client = context.Connect();
  if (!client.ok()) return Fail(context, client.status());
  auto spec = UploadDocuments(context, **client, *std::move(input));
  if (!spec.ok()) return Fail(context, spec.status());
  if (spec->detach()) {
    auto accepted = (*client)->StartLoad(*spec, context.Options());
    if (!accepted.ok()) return Fail(context, accepted.status());
    context.json ? PrintJson(ToJson(*accepted)) : PrintText(absl::StrFormat("load %s\n", accepted->load()));
    return 0;
  }
  const absl::StatusOr<v1::LoadReport> report = LoadWithProgress(context, **client, *spec);
  GateRules rules = RulesOf(options);
  rules.loads = true;
  const ExitCode code = report.ok() ? Judge(*report, rules).code : kExitDone;
  return FinishWithReport(context, report, options.trace, code);
}

int RunPlan(const CommandContext& context, const LoadOptions& options) {
  auto input = ReadInput(options);
  if (!input.ok()) return Fail(context, input.status());
  auto client = context.Connect();
  if (!client.ok()) return Fail(context, client.status());
  auto spec = UploadDocuments(context, **client, *std::move(input));
  if (!spec.ok()) return Fail(context, spec.status());
  auto report = (*client)->PlanLoad(*spec, context.Options());
  if (!report.ok()) return Fail(context, report.status());
  const ExitCode code = Judge(*report, RulesOf(options)).code;
  if (context.json) return FinishWithReport(context, *report, "", code);
  PrintText(PlanReportText(context, **client, *spec, *std::move(report)));
  return code;
}

using LoadRun = int (*)(const CommandContext&, const LoadOptions&);

CLI::App* AddLoadCommand(CLI::App& app, Action& chosen, const std::string& name, const std::string& help,
                         std::shared_ptr<LoadOptions> options, LoadRun run) {
  CLI::App* command = app.add_subcommand(name, help);
  AddLoadOptions(*command, *options);
  command->callback([&chosen, options, run] {
    chosen = [options, run](const CommandContext& context) { return run(context, *options); };
  });
  return command;
}

void AddModelAndPath(CLI::App& command, LoadOptions& options) {
  command.add_option("MODEL", options.model, "Name of the model on the server")->required();
  command.add_option("--from", options.from, "Directory or file of weights")->type_name("PATH")->required();
}

}  // namespace

void AddLoadCommands(CLI::App& app, Action& chosen) {
  auto load = std::make_shared<LoadOptions>();
  CLI::App* command = AddLoadCommand(app, chosen, "load", "Load a checkpoint, or some of its keys", load, RunLoad);
  AddModelAndPath(*command, *load);
  AddTraceOption(*command, load->trace);
  auto plan = std::make_shared<LoadOptions>();
  command = AddLoadCommand(app, chosen, "plan", "Say what a load would do", plan, RunPlan);
  AddModelAndPath(*command, *plan);
  AddPlanForOption(*command, plan->device_map);
}

}  // namespace keyload::cli
