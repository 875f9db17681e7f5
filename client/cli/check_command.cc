#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/cli/absent_files.h"
#include "client/cli/check_output.h"
#include "client/cli/check_source.h"
#include "client/cli/commands.h"
#include "client/cli/enum_words.h"
#include "client/cli/output_file.h"
#include "client/cli/plan_run.h"
#include "client/cli/private_daemon.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

constexpr char kCheckModel[] = "check";
constexpr uint32_t kNamesForBaseline = 10000;  // as many as the server names

struct CheckOptions {
  LoadOptions load;
  std::vector<std::string> directories;
  std::string baseline;
  std::string junit;
  bool annotations = false;
};

// One run of the gate over all its directories, with one daemon.
class Gate {
 public:
  Gate(const CommandContext& context, const CheckOptions& options, GateRules rules)
      : context_(context), options_(options), rules_(std::move(rules)) {}

  int Run() {
    auto daemon = PrivateDaemon::Start(FindDaemon(context_.search_path), context_.Options());
    if (!daemon.ok()) return Fail(context_, daemon.status());
    CommandContext own = context_;
    own.connection = {.server = (*daemon)->address()};
    auto client = own.Connect();
    if (!client.ok()) return Fail(own, client.status());
    std::vector<CheckedSource> checked;
    ExitCode code = kExitDone;
    for (const std::string& directory : options_.directories) {
      checked.push_back(CheckOne(own, **client, directory));
      code = Worse(code, checked.back().verdict.code);
      if (checked.back().verdict.code == kExitCancelled) break;
    }
    if (context_.json) PrintJson(CheckJson(checked, code));
    if (!context_.json && checked.size() > 1) PrintText(SummaryText(checked));
    if (options_.annotations) std::fputs(AnnotationsText(checked).c_str(), stderr);
    if (options_.junit.empty()) return code;
    const absl::Status written =
        ReplaceFile(options_.junit, [&](int fd) { return WriteAll(fd, JunitText(checked), options_.junit); });
    if (written.ok()) return code;
    std::fprintf(stderr, "keyload: --junit: %s\n", std::string(written.message()).c_str());
    return Worse(code, kExitFailed);
  }

 private:
  CheckedSource CheckOne(const CommandContext& own, Client& client, const std::string& directory) {
    CheckedSource checked;
    checked.path = directory;
    LoadOptions options = options_.load;
    auto source = FindCheckSource(directory);
    if (!source.ok()) return Failed(std::move(checked), source.status(), "");
    options.from = source->path;
    const std::string weights = WeightsText(*source, options.weights);
    auto spec = Prepare(own, client, options);
    if (!spec.ok()) return Failed(std::move(checked), spec.status(), weights);
    checked.report = client.PlanLoad(*spec, own.Options());
    if (checked.report.ok()) checked.verdict = Judge(*checked.report, rules_);
    if (!checked.report.ok() || checked.verdict.code != kExitDone)
      checked.absent_files = AbsentFiles(source->path, options.weights);
    if (!checked.report.ok()) return Failed(std::move(checked), checked.report.status(), weights);
    if (!context_.json) {
      PrintText(absl::StrFormat("%scompared with %s\n", Heading(directory), checked.report->compared_with()) + weights +
                PlanReportText(own, client, *spec, *checked.report) +
                absl::StrFormat("\nverdict %s\n", checked.verdict.sentence));
    }
    return checked;
  }

  absl::StatusOr<v1::LoadSpec> Prepare(const CommandContext& own, Client& client, LoadOptions options) {
    if (!options.like.empty()) {
      KEYLOAD_ASSIGN_OR_RETURN(const CheckSource like, FindCheckSource(options.like));
      options.like = like.path;
    }
    KEYLOAD_ASSIGN_OR_RETURN(LoadInput input, ReadInput(options));
    KEYLOAD_ASSIGN_OR_RETURN(v1::LoadSpec spec, UploadDocuments(own, client, std::move(input)));
    // Limits are about what the baseline does not know, which the server cannot tell.
    if (rules_.known != nullptr) spec.clear_limits();
    return spec;
  }

  CheckedSource Failed(CheckedSource checked, absl::Status status, const std::string& weights) {
    checked.verdict = {.code = ExitCodeFor(status), .counts = {}, .sentence = "no verdict: it cannot be read"};
    if (!context_.json) {
      PrintText(Heading(checked.path) + weights);
      Fail(context_, status);
    }
    checked.report = std::move(status);
    return checked;
  }

  std::string Heading(const std::string& directory) const {
    return options_.directories.size() > 1 ? absl::StrFormat("== %s\n", directory) : "";
  }

  static std::string SummaryText(const std::vector<CheckedSource>& checked) {
    std::string out = "\n";
    for (const CheckedSource& source : checked) {
      out += absl::StrFormat("exit %d  %s: %s\n", source.verdict.code, source.path, source.verdict.sentence);
    }
    return out;
  }

  const CommandContext& context_;
  const CheckOptions& options_;
  const GateRules rules_;
};

int RunCheck(const CommandContext& context, CheckOptions options) {
  GateRules rules = RulesOf(options.load);
  rules.compares = true;
  if (!options.load.expected.empty()) {
    auto from = ParseEnumWord<v1::ExpectedKeys::From>(options.load.expected, "--expected");
    if (!from.ok()) return Fail(context, from.status());
    rules.own_keys_asked = *from == v1::ExpectedKeys::FROM_CHECKPOINT;
  }
  absl::StatusOr<Baseline> baseline;
  if (!options.baseline.empty()) {
    baseline = Baseline::Read(options.baseline);
    if (!baseline.ok()) return Fail(context, baseline.status());
    rules.known = &*baseline;
    options.load.names = kNamesForBaseline;
  }
  return Gate(context, options, std::move(rules)).Run();
}

}  // namespace

void AddCheckCommand(CLI::App& app, Action& chosen) {
  auto options = std::make_shared<CheckOptions>();
  options->load.model = kCheckModel;
  CLI::App* command = app.add_subcommand("check", "Plan without a running server: is this checkpoint whole?");
  AddLoadOptions(*command, options->load);
  AddPlanForOption(*command, options->load.device_map);
  command->add_option("DIR", options->directories, "Directories or files of weights")->required();
  command->add_option("--baseline", options->baseline, "Findings that are known: the output of an earlier --json check")
      ->type_name("FILE.json");
  command->add_option("--junit", options->junit, "Write the findings as JUnit's XML")
      ->type_name("FILE.xml")
      ->check([](const std::string& path) { return std::string(CheckWritable(path).message()); });
  command->add_flag("--annotations", options->annotations,
                    "Print the findings as GitHub's annotations on standard error");
  command->callback([&chosen, options] {
    chosen = [options](const CommandContext& context) { return RunCheck(context, *options); };
  });
}

}  // namespace keyload::cli
