#include "tests/fuzz/expected_fuzz.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/expected/derive_manifest.h"
#include "server/expected/expand.h"
#include "tests/support/source_dir.h"

namespace keyload {
namespace {

// What a template may ask for: sizes, a truth value, a list, a text.
constexpr std::string_view kConfig =
    R"({"n": 2, "size": 3, "flag": true, "list": [1, "x", 0.5], "bits": 4, "deep": {"only": {"value": -1}}})";

void Demand(bool condition) {
  if (!condition) std::abort();
}

void CheckRefusal(const absl::Status& status) {
  const Reason reason = ErrorReason(status);
  Demand(reason == Reason::kConfigInvalid || reason == Reason::kConfigNotSupported ||
         reason == Reason::kTemplateInvalid);
}

void CheckExpanded(const Manifest& manifest) {
  Demand(manifest.tensors.size() <= kMaxExpectedKeys);
  for (const TensorSpec& tensor : manifest.tensors) {
    Demand(!tensor.name.empty() && !tensor.name.starts_with('.') && !tensor.name.ends_with('.'));
    Demand(tensor.name.find("..") == std::string::npos);
    Demand(!ComputeTensorSize(tensor.dtype, tensor.shape).error);
  }
}

}  // namespace

void FuzzConfigJson(std::string_view json) {
  const auto config = ParseConfigJson(json, "fuzz");
  if (!config.ok()) return CheckRefusal(config.status());
  const auto manifest = DeriveManifest(*config, "fuzz", {StrCat(SourceDir(), "/server/expected/templates")});
  if (!manifest.ok()) return CheckRefusal(manifest.status());
  CheckExpanded(**manifest);
  Manifest copy = **manifest;
  Demand(ValidateManifest(copy).ok());
}

void FuzzTemplate(std::string_view toml) {
  static const ConfigValue* const config = new ConfigValue(*ParseConfigJson(kConfig, "fuzz"));
  const auto method = ParseTemplate(toml, "fuzz", TemplateKind::kQuantization);
  if (!method.ok()) CheckRefusal(method.status());
  const auto family = ParseTemplate(toml, "fuzz", TemplateKind::kFamily);
  if (!family.ok()) return CheckRefusal(family.status());
  auto values = FindValues(*family, *config, "fuzz", "head");
  if (!values.ok()) return CheckRefusal(values.status());
  Manifest manifest;
  const absl::Status expanded =
      ExpandTree({.family = *family, .values = *std::move(values), .config_file = "fuzz"}, manifest);
  expanded.ok() ? CheckExpanded(manifest) : CheckRefusal(expanded);
}

}  // namespace keyload
