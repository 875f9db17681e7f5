#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/enum_words.h"
#include "client/cli/load_options.h"
#include "client/cli/model_text.h"
#include "client/cli/safetensors_writer.h"
#include "client/cli/selection_options.h"
#include "server/base/byte_size.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

struct ModelOptions {
  std::string model;
  SelectionOptions select;
  LimitOptions limits;
  std::vector<std::string> states;
  std::vector<std::string> keys;
  std::string out;
  std::string trace;
};

int RunUnload(const CommandContext& context, Client& client, const ModelOptions& options) {
  auto response = client.UnloadModel(options.model, context.Options());
  if (!response.ok()) return Fail(context, response.status());
  if (context.json) {
    PrintJson(ToJson(*response));
  } else if (!response->was_loaded()) {
    PrintText(options.model + " was not loaded\n");
  } else {
    PrintText(absl::StrFormat("unloaded %s: %s freed\n", options.model, FormatByteSize(response->freed_bytes())));
  }
  return 0;
}

int RunListModels(const CommandContext& context, Client& client, const ModelOptions&) {
  auto models = client.ListModels(context.Options());
  if (!models.ok()) return Fail(context, models.status());
  context.json ? PrintJson(Json{{"models", ToJsonList(*models)}}) : PrintText(ModelsText(*models));
  return 0;
}

int RunShowModel(const CommandContext& context, Client& client, const ModelOptions& options) {
  auto model = client.GetModel(options.model, context.Options());
  if (!model.ok()) return Fail(context, model.status());
  context.json ? PrintJson(ToJson(*model)) : PrintText(ModelText(*model));
  return 0;
}

// What the flags select, ready to be sent.
absl::StatusOr<v1::KeySelection> Selection(const CommandContext& context, Client& client, const ModelOptions& options) {
  KEYLOAD_ASSIGN_OR_RETURN(SelectionInput input, BuildSelection(options.select));
  return UploadKeyList(client, std::move(input), context.Options());
}

absl::StatusOr<std::vector<v1::KeyInfo>> CollectKeys(const CommandContext& context, Client& client,
                                                     const ModelOptions& options) {
  v1::ListKeysRequest request;
  request.set_model(options.model);
  KEYLOAD_ASSIGN_OR_RETURN(*request.mutable_select(), Selection(context, client, options));
  for (const std::string& word : options.states) {
    KEYLOAD_ASSIGN_OR_RETURN(auto state, ParseEnumWord<v1::KeyState>(word, "--state"));
    request.add_states(state);
  }
  std::vector<v1::KeyInfo> keys;
  auto take = [&](const v1::ListKeysResponse& chunk) {
    keys.insert(keys.end(), chunk.keys().begin(), chunk.keys().end());
    return absl::OkStatus();
  };
  KEYLOAD_RETURN_IF_ERROR(client.ListKeys(request, take, context.Options()));
  return keys;
}

int RunKeys(const CommandContext& context, Client& client, const ModelOptions& options) {
  auto keys = CollectKeys(context, client, options);
  if (!keys.ok()) return Fail(context, keys.status());
  context.json ? PrintJson(Json{{"keys", ToJsonList(*keys)}}) : PrintText(KeysText(*keys));
  return 0;
}

bool IsGlob(const std::string& key) { return key.find_first_of("*?[{") != std::string::npos; }

int RunRead(const CommandContext& context, Client& client, const ModelOptions& options) {
  auto writer = SafetensorsWriter::Create(options.out);
  if (!writer.ok()) return Fail(context, writer.status());
  v1::ReadTensorsRequest request;
  request.set_model(options.model);
  for (const std::string& key : options.keys) {
    IsGlob(key) ? request.mutable_select()->add_include(key) : request.mutable_select()->add_keys(key);
  }
  absl::Status status = client.ReadTensors(
      request, [&](const v1::ReadTensorsResponse& piece) { return (*writer)->Add(piece); }, context.Options());
  if (status.ok() && (*writer)->tensors() == 0)
    status = absl::NotFoundError(options.model + ": no resident key matches");
  if (status.ok()) status = (*writer)->Finish();
  if (!status.ok()) return Fail(context, status);
  if (context.json) {
    PrintJson(Json{{"file", options.out}, {"tensors", (*writer)->tensors()}, {"bytes", (*writer)->data_bytes()}});
  } else {
    PrintText(absl::StrFormat("%s: %d tensors, %s\n", options.out, (*writer)->tensors(),
                              FormatByteSize((*writer)->data_bytes())));
  }
  return 0;
}

int RunMaterialize(const CommandContext& context, Client& client, const ModelOptions& options) {
  auto select = Selection(context, client, options);
  if (!select.ok()) return Fail(context, select.status());
  v1::MaterializeRequest request;
  request.set_model(options.model);
  *request.mutable_select() = *std::move(select);
  if (auto limits = BuildLimits(options.limits)) *request.mutable_limits() = *std::move(limits);
  return FinishWithReport(context, client.Materialize(request, context.Options()), options.trace);
}

std::string EvictText(const std::string& model, const v1::EvictResponse& evicted) {
  std::string text = absl::StrFormat("%s: %d tensor%s evicted, %s freed", model, evicted.tensors(),
                                     evicted.tensors() == 1 ? "" : "s", FormatByteSize(evicted.bytes()));
  if (evicted.leased_tensors() > 0) text += absl::StrFormat("; %d stay, they are leased", evicted.leased_tensors());
  return text + "\n";
}

int RunEvict(const CommandContext& context, Client& client, const ModelOptions& options) {
  auto select = Selection(context, client, options);
  if (!select.ok()) return Fail(context, select.status());
  v1::EvictRequest request;
  request.set_model(options.model);
  *request.mutable_select() = *std::move(select);
  auto response = client.Evict(request, context.Options());
  if (!response.ok()) return Fail(context, response.status());
  context.json ? PrintJson(ToJson(*response)) : PrintText(EvictText(options.model, *response));
  return 0;
}

using ModelRun = int (*)(const CommandContext&, Client&, const ModelOptions&);

struct Added {
  CLI::App* command;
  std::shared_ptr<ModelOptions> options;
};

Added AddCommand(CLI::App& app, Action& chosen, const std::string& name, const std::string& help, ModelRun run) {
  auto options = std::make_shared<ModelOptions>();
  CLI::App* command = app.add_subcommand(name, help);
  command->callback([&chosen, options, run] {
    chosen = [options, run](const CommandContext& context) {
      auto client = context.Connect();
      return client.ok() ? run(context, **client, *options) : Fail(context, client.status());
    };
  });
  return {command, options};
}

Added AddModelCommand(CLI::App& app, Action& chosen, const std::string& name, const std::string& help, ModelRun run) {
  Added added = AddCommand(app, chosen, name, help, run);
  added.command->add_option("MODEL", added.options->model, "Name of the model on the server")->required();
  return added;
}

}  // namespace

void AddModelCommands(CLI::App& app, Action& chosen) {
  AddModelCommand(app, chosen, "unload", "Unload a model and free its memory", RunUnload);
  AddCommand(app, chosen, "list", "The models on the server", RunListModels);
  AddModelCommand(app, chosen, "show", "One model", RunShowModel);

  Added keys = AddModelCommand(app, chosen, "keys", "The keys of a model and where they are", RunKeys);
  AddSelectionOptions(*keys.command, keys.options->select);
  keys.command->add_option("--state", keys.options->states, "Only keys in this state; may be repeated")
      ->type_name("resident|lazy|missing|unexpected|mismatched|ignored|initialized|not-selected")
      ->delimiter(',')
      ->allow_extra_args(false);

  Added read = AddModelCommand(app, chosen, "read", "Write tensors of a model to a safetensors file", RunRead);
  read.command->add_option("KEY", read.options->keys, "Exact keys or globs")->required();
  read.command->add_option("--out", read.options->out, "The file to write")->type_name("FILE.safetensors")->required();

  Added materialize = AddModelCommand(app, chosen, "materialize",
                                      "Bring lazy keys onto their devices, and print the report", RunMaterialize);
  AddSelectionOptions(*materialize.command, materialize.options->select);
  AddLimitOptions(*materialize.command, materialize.options->limits);
  AddTraceOption(*materialize.command, materialize.options->trace);
  Added evict = AddModelCommand(app, chosen, "evict", "Free the memory of keys, which become lazy again", RunEvict);
  AddSelectionOptions(*evict.command, evict.options->select);
}

}  // namespace keyload::cli
