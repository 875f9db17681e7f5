#include "client/cli/selection_options.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "client/cli/exit_code.h"
#include "client/cli/input_file.h"
#include "server/base/error.h"

namespace keyload::cli {
namespace {

constexpr size_t kMaxInlineKeys = 1000;  // longer lists travel as a document

void AddGlobs(CLI::App& app, const std::string& name, std::vector<std::string>& globs, const std::string& help) {
  app.add_option(name, globs, help)->type_name("GLOB")->allow_extra_args(false);
}

// CLI11 would read "-1" as the largest count there is.
std::string IsCount(const std::string& text) {
  uint64_t count = 0;
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  return digits && absl::SimpleAtoi(text, &count) ? "" : "\"" + text + "\" is no count";
}

}  // namespace

void AddSelectionOptions(CLI::App& app, SelectionOptions& options) {
  AddGlobs(app, "--include", options.include, "Only keys that match; may be repeated");
  AddGlobs(app, "--exclude", options.exclude, "Not keys that match; may be repeated");
  app.add_option("--keys", options.keys_file, "Only these keys: a file of names, one a line")->type_name("FILE");
}

void AddLimitOptions(CLI::App& app, LimitOptions& options) {
  CLI::Option* strict =
      app.add_flag("--strict", options.strict, "Reject if any key is missing, unexpected or mismatched");
  auto add = [&](const std::string& name, std::optional<uint64_t>& limit) {
    app.add_option(name, limit, "Reject above N")->type_name("N")->check(IsCount)->excludes(strict);
  };
  add("--max-missing", options.max_missing);
  add("--max-unexpected", options.max_unexpected);
  add("--max-mismatched", options.max_mismatched);
}

absl::StatusOr<SelectionInput> BuildSelection(const SelectionOptions& options) {
  SelectionInput input;
  input.select.mutable_include()->Add(options.include.begin(), options.include.end());
  input.select.mutable_exclude()->Add(options.exclude.begin(), options.exclude.end());
  if (options.keys_file.empty()) return input;
  KEYLOAD_ASSIGN_OR_RETURN(std::vector<std::string> keys, ReadKeyFile(options.keys_file));
  if (keys.empty()) return UsageError("--keys: " + options.keys_file + " names no key");
  if (keys.size() > kMaxInlineKeys) {
    input.key_list = absl::StrJoin(keys, "\n") + "\n";
  } else {
    input.select.mutable_keys()->Add(keys.begin(), keys.end());
  }
  return input;
}

std::optional<v1::Limits> BuildLimits(const LimitOptions& options) {
  const std::optional<uint64_t> none = options.strict ? std::optional<uint64_t>(0) : std::nullopt;
  const auto missing = options.max_missing ? options.max_missing : none;
  const auto unexpected = options.max_unexpected ? options.max_unexpected : none;
  const auto mismatched = options.max_mismatched ? options.max_mismatched : none;
  if (!missing && !unexpected && !mismatched) return std::nullopt;
  v1::Limits limits;
  if (missing) limits.set_max_missing(*missing);
  if (unexpected) limits.set_max_unexpected(*unexpected);
  if (mismatched) limits.set_max_mismatched(*mismatched);
  return limits;
}

absl::StatusOr<v1::KeySelection> UploadKeyList(Client& client, SelectionInput input, const CallOptions& options) {
  if (input.key_list) {
    KEYLOAD_ASSIGN_OR_RETURN(auto uploaded,
                             client.UploadDocument(v1::UploadDocumentRequest::KIND_KEY_LIST, *input.key_list, options));
    input.select.set_key_list_digest(uploaded.digest());
  }
  return std::move(input.select);
}

}  // namespace keyload::cli
