#include "client/cli/plan_run.h"

#include <filesystem>
#include <utility>

#include "client/cli/plan_limits.h"
#include "server/base/error.h"

namespace keyload::cli {

absl::StatusOr<LoadInput> ReadInput(const LoadOptions& options) {
  std::error_code error;
  std::filesystem::path directory = std::filesystem::current_path(error);
  return BuildLoadInput(options, directory);
}

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

std::string PlanReportText(const CommandContext& context, Client& client, const v1::LoadSpec& spec,
                           v1::LoadReport report) {
  const PlanSpace space = FindPlanSpace(client, spec, context.Options());
  const std::string map = PlanText(
      spec, report, space, [&](const v1::LoadSpec& other) { return client.PlanLoad(other, context.Options()); });
  report.clear_devices();
  report.clear_device_map();
  return ReportText(report, context.style) + map;
}

GateRules RulesOf(const LoadOptions& options) {
  GateRules rules;
  if (auto limits = BuildLimits(options.limits)) rules.limits = *std::move(limits);
  rules.no_weights_allowed = options.allow_no_weights;
  rules.report_only = options.report_only;
  return rules;
}

}  // namespace keyload::cli
