#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/request_context.h"
#include "server/checkpoint/checkpoint_index.h"
#include "server/expected/config_value.h"
#include "server/keys/manifest.h"

namespace keyload {

// Where templates are looked for: DIR/MODEL_TYPE.toml, and DIR/quantization/QUANT_METHOD.toml. The first directory that
// has the file counts. Read anew at each use, so that a changed file counts at once.
using TemplateDirectories = std::vector<std::string>;

// share/keyload/templates beside the directory of the running program.
std::string BuiltInTemplateDirectory();

// The expected keys of the checkpoint with this config.json, from the template of its model_type. `file` is the
// config.json's name for messages. Blocks on small files. CONFIG_NOT_SUPPORTED: no template knows the model_type, the
// architecture or the quantization method (for the model_type, which may be empty, with the metadata "model_type");
// CONFIG_INVALID; TEMPLATE_INVALID. `context` is asked now and then, and its errors returned; null: never.
absl::StatusOr<std::shared_ptr<const Manifest>> DeriveManifest(const ConfigValue& config, std::string_view file,
                                                               const TemplateDirectories& directories,
                                                               const RequestContext* context = nullptr);

struct DerivedKeys {
  std::shared_ptr<const Manifest> manifest;
  std::string warning;  // how quantised layers were understood; empty: as the templates say
};

// The same for the checkpoint that `index` has. Where it stores quantised weights and the configuration is silent about
// them, has no template for the method, or one that is not right for these layers, the layers are expected to have what
// those like them have (FollowStoredLayers). CONFIG_NOT_SUPPORTED besides: quantised tensors are under names that such
// a model does not have.
absl::StatusOr<DerivedKeys> DeriveKeys(const ConfigValue& config, std::string_view file,
                                       const TemplateDirectories& directories, const CheckpointIndex& index,
                                       const RequestContext* context = nullptr);

}  // namespace keyload
