#include "server/service/like_checkpoint.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/checkpoint/json_checks.h"
#include "server/checkpoint/natural_order.h"
#include "server/expected/expand.h"

namespace keyload {

absl::StatusOr<std::shared_ptr<const Manifest>> ManifestOf(const CheckpointIndex& like, const RequestContext& context) {
  const std::vector<StoredTensor>& tensors = like.tensors();
  if (tensors.size() > kMaxExpectedKeys) {
    return MakeError(
        Reason::kBadRequest,
        StrCat(like.resolved(), " has ", tensors.size(), " keys; another checkpoint is compared with up to ",
               kMaxExpectedKeys, ": name a manifest instead"),
        {{"path", like.resolved()}});
  }
  auto manifest = std::make_shared<Manifest>();
  manifest->tensors.reserve(tensors.size());
  PeriodicCheck check(&context);
  for (const uint32_t position : like.headers().NaturalOrder()) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    const StoredTensor& tensor = tensors[position];
    manifest->tensors.push_back(
        {.name = std::string(tensor.name), .dtype = tensor.dtype, .shape = tensor.shape, .bytes = tensor.bytes});
  }
  KEYLOAD_RETURN_IF_ERROR(ValidateManifest(*manifest));
  return manifest;
}

absl::StatusOr<std::vector<Finding>> CompareDTypes(const KeyReport& keys, std::string_view like,
                                                   const RequestContext& context) {
  std::map<std::pair<DType, DType>, std::vector<std::string_view>> differing;
  PeriodicCheck check(&context);
  for (const ModelKey& key : keys.keys) {
    KEYLOAD_RETURN_IF_ERROR(check.Check());
    if (key.state != KeyState::kFound || keys.StoredDType(key) == key.dtype) continue;
    differing[{keys.StoredDType(key), key.dtype}].push_back(key.name);
  }
  std::vector<Finding> findings;
  for (auto& [dtypes, names] : differing) {
    const auto shown = names.begin() + static_cast<ptrdiff_t>(std::min(names.size(), kNamesInFinding));
    std::partial_sort(names.begin(), shown, names.end(), NaturalLess);
    Finding& finding = findings.emplace_back();
    finding.rule = "dtype";
    finding.count = names.size();
    for (auto name = names.begin(); name != shown; ++name) finding.names.push_back(Shortened(*name));
    finding.message = StrCat(names.size(), names.size() == 1 ? " key is " : " keys are ", DTypeName(dtypes.first),
                             " here and ", DTypeName(dtypes.second), " in ", like, ", for example ",
                             finding.names.front(), ": equal in shape, so they load, with other precision");
  }
  return findings;
}

}  // namespace keyload
