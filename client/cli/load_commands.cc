#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/check_source.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/load_options.h"
#include "client/cli/plan_limits.h"
#include "client/cli/private_daemon.h"
#include "client/cli/progress_bar.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

constexpr char kCheckModel[] = "check";

// The spec with its documents on the server.
absl::StatusOr<v1::LoadSpec> UploadDocuments(const CommandContext& context, Client& client, LoadInput input) {
  if (input.manifest) {
    KEYLOAD_ASSIGN_OR_RETURN(auto uploaded, client.UploadDocument(v1::UploadDocumentRequest::KIND_MANIFEST,
                                                                  *input.manifest, context.Options()));
    input.spec.mutable_expected()->set_manifest_digest(uploaded.digest());
  }
  KEYLOAD_ASSIGN_OR_RETURN(*input.spec.mutable_select(),
                           UploadKeyList(client, std::move(input.selection), context.Options()));
  return std::move(input.spec);
}

absl::StatusOr<LoadInput> ReadInput(const LoadOptions& options) {
  std::error_code error;
  std::filesystem::path directory = std::filesystem::current_path(error);
  return BuildLoadInput(options, directory);
}

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
  return FinishWithReport(context, LoadWithProgress(context, **client, *spec), options.trace);
}

// The report without its lists of devices, and the map as a picture behind it.
void PrintPlan(const CommandContext& context, Client& client, const v1::LoadSpec& spec, v1::LoadReport report) {
  const PlanSpace space = FindPlanSpace(client, spec, context.Options());
  const std::string map = PlanText(
      spec, report, space, [&](const v1::LoadSpec& other) { return client.PlanLoad(other, context.Options()); });
  report.clear_devices();
  report.clear_device_map();
  PrintText(ReportText(report, context.style) + map);
}

int Plan(const CommandContext& context, LoadInput input) {
  auto client = context.Connect();
  if (!client.ok()) return Fail(context, client.status());
  auto spec = UploadDocuments(context, **client, std::move(input));
  if (!spec.ok()) return Fail(context, spec.status());
  auto report = (*client)->PlanLoad(*spec, context.Options());
  if (!report.ok()) return Fail(context, report.status());
  if (context.json) return FinishWithReport(context, *report);
  const int code = ExitCodeFor(*report);
  PrintPlan(context, **client, *spec, *std::move(report));
  return code;
}

int RunPlan(const CommandContext& context, const LoadOptions& options) {
  auto input = ReadInput(options);
  return input.ok() ? Plan(context, *std::move(input)) : Fail(context, input.status());
}

int RunCheck(const CommandContext& context, const LoadOptions& options) {
  auto source = FindCheckSource(options.from);
  if (!source.ok()) return Fail(context, source.status());
  LoadOptions found = options;
  found.from = source->path;
  auto input = ReadInput(found);
  if (!input.ok()) return Fail(context, input.status());
  auto daemon = PrivateDaemon::Start(FindDaemon(context.search_path), context.Options());
  if (!daemon.ok()) return Fail(context, daemon.status());
  CommandContext own = context;
  own.connection = {.server = (*daemon)->address()};
  if (!context.json) PrintText(WeightsText(*source, options.weights));
  return Plan(own, *std::move(input));
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
  auto check = std::make_shared<LoadOptions>();
  check->model = kCheckModel;
  command =
      AddLoadCommand(app, chosen, "check", "Plan without a running server: is this checkpoint whole?", check, RunCheck);
  command->add_option("DIR", check->from, "Directory or file of weights")->required();
  AddPlanForOption(*command, check->device_map);
}

}  // namespace keyload::cli
