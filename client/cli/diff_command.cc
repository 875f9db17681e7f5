#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/cli/check_source.h"
#include "client/cli/commands.h"
#include "client/cli/load_options.h"
#include "client/cli/plan_run.h"
#include "client/cli/private_daemon.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

constexpr int kNamesShown = 10;
constexpr uint32_t kMostNames = 10000;

struct DiffOptions {
  std::string first, second;
};

template <typename Names>
std::string NamesText(const std::string& heading, uint64_t count, const Names& names) {
  if (count == 0) return "";
  std::string out = absl::StrFormat("\n%s (%d)\n", heading, count);
  const int shown = std::min<int>(names.size(), kNamesShown);
  for (int i = 0; i < shown; ++i) out += "  " + names[i] + "\n";
  if (count > static_cast<uint64_t>(shown))
    out += absl::StrFormat("  and %d more: --json prints them\n", count - shown);
  return out;
}

// The second checkpoint was planned with the keys of the first as what is expected.
std::string DiffText(const DiffOptions& options, const v1::LoadReport& report) {
  const v1::KeyCounts& keys = report.keys();
  std::vector<std::string> shapes;
  for (const v1::MismatchedKey& key : report.mismatched_keys()) {
    shapes.push_back(
        absl::StrFormat("%s: %s and %s", key.key(), ShapeText(key.expected_shape()), ShapeText(key.found_shape())));
  }
  std::string out = absl::StrFormat("A %s\nB %s\nkeys    %d in both, %d only in A, %d only in B, %d of another shape\n",
                                    options.first, options.second, keys.expected() - keys.missing(), keys.missing(),
                                    keys.unexpected(), keys.mismatched());
  out += NamesText("only in A", keys.missing(), report.missing_keys());
  out += NamesText("only in B", keys.unexpected(), report.unexpected_keys());
  out += NamesText("of another shape, in A and in B", keys.mismatched(), shapes);
  for (const v1::Finding& finding : report.findings()) out += "\n" + finding.message() + "\n";
  return out;
}

Json DiffJson(const DiffOptions& options, const v1::LoadReport& report, bool differs) {
  const Json whole = ToJson(report);
  return {{"a", options.first},
          {"b", options.second},
          {"differs", differs},
          {"inBoth", report.keys().expected() - report.keys().missing()},
          {"onlyInA", report.keys().missing()},
          {"onlyInB", report.keys().unexpected()},
          {"otherShape", report.keys().mismatched()},
          {"keysOnlyInA", whole["missingKeys"]},
          {"keysOnlyInB", whole["unexpectedKeys"]},
          {"keysOfOtherShape", whole["mismatchedKeys"]},
          {"otherDtypes", whole["findings"]}};
}

absl::StatusOr<v1::LoadReport> Compare(const CommandContext& own, const DiffOptions& options) {
  KEYLOAD_ASSIGN_OR_RETURN(const CheckSource first, FindCheckSource(options.first));
  KEYLOAD_ASSIGN_OR_RETURN(const CheckSource second, FindCheckSource(options.second));
  LoadOptions load;
  load.model = "diff";
  load.from = second.path;
  load.like = first.path;
  load.names = kMostNames;
  load.device_map.device_map = "disk";  // where it would fit is no question
  KEYLOAD_ASSIGN_OR_RETURN(const LoadInput input, ReadInput(load));
  KEYLOAD_ASSIGN_OR_RETURN(auto client, own.Connect());
  return client->PlanLoad(input.spec, own.Options());
}

int RunDiff(const CommandContext& context, const DiffOptions& options) {
  auto daemon = PrivateDaemon::Start(FindDaemon(context.search_path), context.Options());
  if (!daemon.ok()) return Fail(context, daemon.status());
  CommandContext own = context;
  own.connection = {.server = (*daemon)->address()};
  auto report = Compare(own, options);
  if (!report.ok()) return Fail(own, report.status());
  const v1::KeyCounts& keys = report->keys();
  const bool differs = keys.missing() + keys.unexpected() + keys.mismatched() > 0 || !report->findings().empty();
  context.json ? PrintJson(DiffJson(options, *report, differs)) : PrintText(DiffText(options, *report));
  return differs ? kExitNotComplete : kExitDone;
}

}  // namespace

void AddDiffCommand(CLI::App& app, Action& chosen) {
  auto options = std::make_shared<DiffOptions>();
  CLI::App* command = app.add_subcommand("diff", "Compare the keys, shapes and dtypes of two checkpoints");
  command->add_option("A", options->first, "Directory or file of weights")->required();
  command->add_option("B", options->second, "Directory or file of weights")->required();
  command->callback(
      [&chosen, options] { chosen = [options](const CommandContext& context) { return RunDiff(context, *options); }; });
}

}  // namespace keyload::cli
