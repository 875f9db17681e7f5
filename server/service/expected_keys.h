#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/expected/derive_manifest.h"
#include "server/keys/manifest.h"
#include "server/report/load_report.h"
#include "server/report/phase_clock.h"
#include "server/service/key_sources.h"
#include "server/service/load_spec.h"

namespace keyload {

// The manifest that the request names, or null. Blocks on a file of the server. DOCUMENT_NOT_FOUND, DOCUMENT_TOO_LARGE,
// MANIFEST_INVALID, and what ModelRoots::Open and StorageThreads::Run return.
absl::StatusOr<std::shared_ptr<const Manifest>> FindManifest(const ExpectedSpec& expected, const KeySources& sources,
                                                             const RequestContext& context);

struct ExpectedKeys {
  std::shared_ptr<const Manifest> manifest;  // null: what the checkpoint has
  ExpectedFrom from = ExpectedFrom::kCheckpoint;
  std::string warning;        // why a config.json does not count, or how it was understood; empty: none
  std::string compared_with;  // as LoadReport has it
};

// Where the expected keys come from for a request without a manifest: with FROM_CONFIG from config.json, or an error;
// with no word on it from config.json where a template knows it and the weights are those that it describes
// (model.safetensors and its variants, sharded or not), else from the checkpoint. Enters the phase "expected" once
// there is a config.json. Blocks on small files. CHECKPOINT_NOT_FOUND: no config.json where one is needed;
// CONFIG_INVALID, CONFIG_NOT_SUPPORTED, TEMPLATE_INVALID; the context's errors.
absl::StatusOr<ExpectedKeys> FindExpectedKeys(const LoadSpec& spec, const CheckpointIndex& index,
                                              const KeySources& sources, const RequestContext& context,
                                              PhaseClock& clock);

}  // namespace keyload
