#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/cli/command_context.h"
#include "client/cli/gate_verdict.h"
#include "client/cli/load_options.h"
#include "keyload/client.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {

// What load, plan, check and diff have in common: from flags to a request, and from a plan to text.

// BuildLoadInput with paths made absolute against the working directory.
absl::StatusOr<LoadInput> ReadInput(const LoadOptions& options);

// The spec with its documents on the server. Blocks; the client's errors.
absl::StatusOr<v1::LoadSpec> UploadDocuments(const CommandContext& context, Client& client, LoadInput input);

// The report without its lists of devices, and the map as a picture behind it. Asks the server for devices and for
// plans with other limits.
std::string PlanReportText(const CommandContext& context, Client& client, const v1::LoadSpec& spec,
                           v1::LoadReport report);

// By which the flags have a report measured; without a baseline.
GateRules RulesOf(const LoadOptions& options);

}  // namespace keyload::cli
