#include "client/cli/load_options.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "client/cli/command_context.h"
#include "client/cli/dtype_words.h"
#include "client/cli/enum_words.h"
#include "client/cli/exit_code.h"
#include "client/cli/input_file.h"
#include "client/cli/output_file.h"
#include "google/protobuf/util/time_util.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

void AddKeyOptions(CLI::App& app, LoadOptions& options) {
  app.add_option("--manifest", options.manifest, "Expected keys: a ModelManifest, JSON or binary, sent to the server")
      ->type_name("FILE");
  app.add_option("--expected", options.expected, "Where the expected keys come from")
      ->type_name("checkpoint|config|manifest|like");
  app.add_option("--like", options.like, "Expected keys: those of another checkpoint, as a fine-tune has its base's")
      ->type_name("DIR");
  AddSelectionOptions(app, options.select);
  app.add_option("--base-prefix", options.base_prefix, "Prefix of the base model in the model's keys")->type_name("P");
  app.add_option("--rename", options.renames,
                 "RE2 rename of checkpoint keys, in order; auto: find one that makes all keys match")
      ->type_name("PATTERN=>REPLACEMENT|auto")
      ->allow_extra_args(false);
  app.add_option("--names", options.names, "Names per list in the report (default 100)")
      ->type_name("N")
      ->check(CLI::Range(1, 10000));
}

// Where the bytes stay. A warmed model has no copy, so neither has it one to keep out of the file.
void AddStorageOptions(CLI::App& app, LoadOptions& options) {
  CLI::Option* lazy = app.add_flag("--lazy", options.lazy, "Plan and register; read bytes on first need");
  app.add_option("--reserve", options.reserve, "Memory of a lazy load (default on-demand)")
      ->type_name("now|on-demand")
      ->needs(lazy);
  CLI::Option* copy =
      app.add_flag("--copy", options.copy, "Copy tensors on cpu into memory instead of mapping their file");
  CLI::Option* warm = app.add_flag("--warm", options.warm, "Only bring the bytes into the page cache, for any reader");
  CLI::Option* hold = app.add_flag("--hold", options.hold, "As --warm, and lock them there, within the server's limit");
  CLI::Option* drop = app.add_flag("--drop-cache", options.drop_cache, "Drop the files from the page cache afterwards");
  warm->excludes(copy);
  hold->excludes(warm)->excludes(copy);
  drop->excludes(warm)->excludes(hold);
}

absl::Status BuildExpected(const LoadOptions& options, const std::filesystem::path& directory, LoadInput& input) {
  if (!options.expected.empty()) {
    KEYLOAD_ASSIGN_OR_RETURN(auto from, ParseEnumWord<v1::ExpectedKeys::From>(options.expected, "--expected"));
    if (from == v1::ExpectedKeys::FROM_MANIFEST && options.manifest.empty()) {
      return UsageError("--expected manifest needs --manifest FILE");
    }
    if (from == v1::ExpectedKeys::FROM_LIKE && options.like.empty()) {
      return UsageError("--expected like needs --like DIR");
    }
    input.spec.mutable_expected()->set_from(from);
  }
  if (!options.like.empty()) {
    if (!options.manifest.empty())
      return UsageError("--like and --manifest both say which keys are expected: give one");
    input.spec.mutable_expected()->mutable_like()->set_path((directory / options.like).string());
  }
  if (options.manifest.empty()) return absl::OkStatus();
  KEYLOAD_ASSIGN_OR_RETURN(input.manifest, ReadManifestFile(options.manifest));
  return absl::OkStatus();
}

absl::Status BuildRules(const LoadOptions& options, v1::LoadSpec& spec) {
  constexpr std::string_view kArrow = "=>";
  constexpr std::string_view kAuto = "auto";
  if (options.base_prefix) spec.mutable_rules()->set_base_model_prefix(*options.base_prefix);
  for (const std::string& text : options.renames) {
    if (text == kAuto) {
      spec.mutable_rules()->set_rename_auto(true);
      continue;
    }
    size_t arrow = text.find(kArrow);
    if (arrow == std::string::npos || arrow == 0) {
      return UsageError(absl::StrFormat("--rename: \"%s\" is neither PATTERN=>REPLACEMENT nor auto", text));
    }
    v1::Rename& rename = *spec.mutable_rules()->add_renames();
    rename.set_pattern(text.substr(0, arrow));
    rename.set_replacement(text.substr(arrow + kArrow.size()));
  }
  return absl::OkStatus();
}

absl::Status BuildPolicies(const LoadOptions& options, v1::LoadSpec& spec) {
  if (options.lazy) spec.set_residency(v1::RESIDENCY_LAZY);
  if (!options.reserve.empty()) {
    KEYLOAD_ASSIGN_OR_RETURN(auto reserve, ParseEnumWord<v1::Reserve>(options.reserve, "--reserve"));
    spec.set_reserve(reserve);
  }
  if (!options.missing.empty()) {
    KEYLOAD_ASSIGN_OR_RETURN(auto missing, ParseEnumWord<v1::MissingPolicy>(options.missing, "--missing"));
    spec.set_missing(missing);
  }
  if (!options.if_exists.empty()) {
    KEYLOAD_ASSIGN_OR_RETURN(auto if_exists, ParseEnumWord<v1::IfExists>(options.if_exists, "--if-exists"));
    spec.set_if_exists(if_exists);
  }
  if (options.copy) spec.set_host_storage(v1::HOST_STORAGE_COPIED);
  if (options.warm) spec.set_page_cache(v1::PAGE_CACHE_WARM);
  if (options.hold) spec.set_page_cache(v1::PAGE_CACHE_HOLD);
  if (options.drop_cache) spec.set_page_cache(v1::PAGE_CACHE_DROP);
  return absl::OkStatus();
}

absl::StatusOr<google::protobuf::Duration> ParseWait(const std::string& text) {
  KEYLOAD_ASSIGN_OR_RETURN(const absl::Duration wait, ParseTimeout(text, "--wait-memory"));
  return google::protobuf::util::TimeUtil::NanosecondsToDuration(absl::ToInt64Nanoseconds(wait));
}

}  // namespace

void AddLoadOptions(CLI::App& app, LoadOptions& options) {
  AddKeyOptions(app, options);
  AddLimitOptions(app, options.limits);
  AddReportOnlyOption(app, options.report_only);
  AddStorageOptions(app, options);
  AddDeviceMapOptions(app, options.device_map);
  app.add_option("--dtype", options.dtype, "Convert floating tensors to this dtype; without it they stay as stored")
      ->type_name("BF16|F16|F32|F64");
  app.add_option("--missing", options.missing, "What missing keys become")->type_name("leave|zeros|init");
  app.add_flag("--allow-no-weights", options.allow_no_weights, "A directory without weights is an empty checkpoint");
  app.add_option("--weights", options.weights, "Which set, where a directory holds several")->type_name("SET");
  app.add_option("--if-exists", options.if_exists, "If a model of that name is there (default reuse)")
      ->type_name("reuse|extend|replace|fail");
  app.add_flag("--detach", options.detach, "Return at once, the load goes on");
  app.add_option("--request-id", options.request_id, "The same id gives the same load and report")->type_name("ID");
  app.add_option("--priority", options.priority, "Of the loads that wait the larger ones go first (default 0)")
      ->type_name("N");
  app.add_option("--wait-memory", options.wait_memory,
                 "Wait that long for device memory that others use, as in 90s or 5m")
      ->type_name("D");
}

void AddReportOnlyOption(CLI::App& app, bool& report_only) {
  app.add_flag("--report-only", report_only, "End with 0 whatever the report says about keys");
}

void AddTraceOption(CLI::App& app, std::string& trace) {
  app.add_option("--trace", trace, "Write the report's times as a trace for Perfetto")
      ->type_name("FILE.json")
      ->check([](const std::string& path) { return std::string(CheckWritable(path).message()); });
}

absl::StatusOr<LoadInput> BuildLoadInput(const LoadOptions& options, const std::filesystem::path& directory) {
  if (options.detach && !options.trace.empty()) {
    return UsageError("--trace writes the report, which --detach does not wait for: keyload wait has --trace too");
  }
  if (options.from.empty()) return UsageError("the path of the checkpoint is empty");
  LoadInput input;
  v1::LoadSpec& spec = input.spec;
  spec.set_model(options.model);
  spec.set_request_id(options.request_id);
  spec.mutable_source()->set_path((directory / options.from).string());  // an absolute path replaces the directory
  spec.mutable_source()->set_weights(options.weights);
  spec.mutable_source()->set_allow_no_weights(options.allow_no_weights);
  KEYLOAD_RETURN_IF_ERROR(BuildExpected(options, directory, input));
  KEYLOAD_ASSIGN_OR_RETURN(input.selection, BuildSelection(options.select));
  KEYLOAD_RETURN_IF_ERROR(BuildRules(options, spec));
  KEYLOAD_ASSIGN_OR_RETURN(*spec.mutable_device_map(), BuildDeviceMapSpec(options.device_map));
  KEYLOAD_RETURN_IF_ERROR(BuildPolicies(options, spec));
  if (auto limits = BuildLimits(options.limits)) *spec.mutable_limits() = *std::move(limits);
  spec.set_dtype(DTypeFromWord(options.dtype));
  spec.set_detach(options.detach);
  spec.set_name_limit(options.names);
  spec.set_priority(options.priority);
  if (!options.wait_memory.empty()) {
    KEYLOAD_ASSIGN_OR_RETURN(*spec.mutable_wait_memory(), ParseWait(options.wait_memory));
  }
  return input;
}

}  // namespace keyload::cli
