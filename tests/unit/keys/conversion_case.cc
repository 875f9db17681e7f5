#include "tests/unit/keys/conversion_case.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace keyload {

std::vector<Conversion> ExpertConversions() {
  const ConversionOperation stack = {OperationKind::kStack, {0}};
  return {{.sources = {"mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"},
           .targets = {"mlp.experts.gate_up_proj"},
           .operations = {stack, {OperationKind::kConcatenate, {1}}}},
          {.sources = {"mlp.experts.*.down_proj.weight"}, .targets = {"mlp.experts.down_proj"}, .operations = {stack}}};
}

std::vector<StoredKey> StoredExperts(const std::vector<int>& experts, int layer) {
  std::vector<StoredKey> stored;
  for (const int expert : experts) {
    const std::string module = absl::StrCat("model.layers.", layer, ".mlp.experts.", expert, ".");
    stored.emplace_back(module + "gate_proj.weight", Shape{3, 2});
    stored.emplace_back(module + "up_proj.weight", Shape{3, 2});
    stored.emplace_back(module + "down_proj.weight", Shape{2, 3});
  }
  return stored;
}

Manifest ExpertManifest(uint64_t experts) {
  Manifest manifest;
  manifest.tensors = {Parameter(kGateUp, {experts, 6, 2}), Parameter(kDown, {experts, 2, 3})};
  manifest.conversions = ExpertConversions();
  return manifest;
}

std::vector<std::string> PartsOf(const KeyReport& report, std::string_view key) {
  std::vector<std::string> parts;
  for (const KeyPart& part : report.PartsOf(KeyNamed(report, key))) {
    const StoredTensor& stored = report.index->tensors()[part.stored];
    parts.push_back(
        absl::StrReplaceAll(std::string(stored.name), {{"model.layers.0.mlp.experts.", ""}, {"_proj.weight", ""}}));
    if (part.bytes != stored.bytes) absl::StrAppend(&parts.back(), "@", part.offset, "+", part.bytes);
  }
  return parts;
}

}  // namespace keyload
