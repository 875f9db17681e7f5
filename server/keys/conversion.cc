#include "server/keys/conversion.h"

#include <algorithm>

#include "server/base/error.h"
#include "server/base/strings.h"

namespace keyload {
namespace {

constexpr size_t kShown = 200;  // bytes of a target in a message
constexpr size_t kMost = 1024;  // sources, targets or operations of one conversion

bool HasDims(const ConversionOperation& operation) {
  switch (operation.kind) {
    case OperationKind::kTranspose:
      return operation.dims.size() == 2;
    case OperationKind::kPermute:
      return !operation.dims.empty();
    default:
      return operation.dims.size() == 1;
  }
}

// Why `conversion` cannot be; empty if it can.
std::string WhyInvalid(const Conversion& conversion) {
  if (conversion.sources.empty() || conversion.targets.empty() || conversion.operations.empty()) {
    return "it needs a source, a target and an operation";
  }
  if (conversion.sources.size() > kMost || conversion.targets.size() > kMost || conversion.operations.size() > kMost) {
    return StrCat("over ", kMost, " sources, targets or operations");
  }
  std::vector<std::string_view> targets(conversion.targets.begin(), conversion.targets.end());
  std::sort(targets.begin(), targets.end());
  if (const auto twice = std::adjacent_find(targets.begin(), targets.end()); twice != targets.end()) {
    return StrCat("the target ", twice->substr(0, kShown), " comes twice");
  }
  size_t tensors = conversion.sources.size();
  for (const ConversionOperation& operation : conversion.operations) {
    const std::string_view name = OperationName(operation.kind);
    if (!HasDims(operation)) return StrCat(name, " with ", operation.dims.size(), " dims");
    if (operation.kind == OperationKind::kConcatenate) tensors = 1;
    if (operation.kind != OperationKind::kChunk) continue;
    if (tensors != 1) return StrCat(name, " of ", tensors, " tensors");
    tensors = conversion.targets.size();
  }
  if (tensors == conversion.targets.size()) return "";
  return StrCat("its operations make ", tensors, " tensors for ", conversion.targets.size(), " targets");
}

}  // namespace

std::string_view OperationName(OperationKind kind) {
  switch (kind) {
    case OperationKind::kStack:
      return "STACK";
    case OperationKind::kConcatenate:
      return "CONCATENATE";
    case OperationKind::kChunk:
      return "CHUNK";
    case OperationKind::kTranspose:
      return "TRANSPOSE";
    case OperationKind::kPermute:
      return "PERMUTE";
  }
  return "";
}

std::string ConversionLabel(const Conversion& conversion, size_t number) {
  return StrCat("conversion ", number, " (to ",
                conversion.targets.empty() ? "nothing" : conversion.targets.front().substr(0, kShown), ")");
}

absl::Status CheckConversions(std::span<const Conversion> conversions) {
  for (size_t i = 0; i < conversions.size(); ++i) {
    const std::string why = WhyInvalid(conversions[i]);
    if (why.empty()) continue;
    return MakeError(Reason::kManifestInvalid, StrCat("manifest: ", ConversionLabel(conversions[i], i), ": ", why),
                     {{"field", StrCat("manifest.conversions[", i, "]")}});
  }
  return absl::OkStatus();
}

}  // namespace keyload
