#include <algorithm>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_split.h"
#include "server/base/strings.h"
#include "server/plan/load_plan.h"
#include "server/tensor/convert.h"

namespace keyload {
namespace {

class DTypeRule {
 public:
  explicit DTypeRule(const DTypeRequest& request)
      : wanted_(request.wanted), keep_(request.keep_in_fp32.begin(), request.keep_in_fp32.end()) {}

  DType For(std::string_view key, DType from) const {
    if (!wanted_ || !IsConvertible(from)) return from;
    if (DTypeBits(*wanted_) == 16 && Keeps(key)) return DType::kF32;
    return *wanted_;
  }

 private:
  bool Keeps(std::string_view key) const {
    if (keep_.empty()) return false;
    const std::vector<absl::string_view> components = absl::StrSplit(ToAbsl(key), '.');
    return std::any_of(components.begin(), components.end(), [&](absl::string_view c) { return keep_.contains(c); });
  }

  std::optional<DType> wanted_;
  absl::flat_hash_set<std::string> keep_;
};

bool TakesPlace(const ModelKey& key) { return key.state != KeyState::kNotSelected; }

}  // namespace

PlacementInput MakePlacementInput(const KeyReport& report, const DTypeRequest& dtype,
                                  const std::vector<std::string>& no_split_classes) {
  PlacementInput input;
  const DTypeRule rule(dtype);
  std::vector<int64_t> placed_at(report.tied_groups.empty() ? 0 : report.keys.size(), -1);
  const size_t most = report.keys.size() - report.counts.not_selected;
  input.keys.reserve(most);
  input.dtypes.reserve(most);
  input.model.tensors.reserve(most);
  for (uint32_t i = 0; i < report.keys.size(); ++i) {
    const ModelKey& key = report.keys[i];
    if (!TakesPlace(key)) continue;
    const bool found = key.state == KeyState::kFound;
    const DType from = found ? report.StoredDType(key) : key.dtype;
    const DType on_device = rule.For(key.name, from);
    const uint64_t from_bytes = found ? report.StoredBytes(key) : key.bytes;
    // What converts has whole bytes per element.
    const uint64_t bytes =
        on_device == from ? from_bytes : from_bytes / (DTypeBits(from) / 8) * (DTypeBits(on_device) / 8);
    if (!placed_at.empty()) placed_at[i] = static_cast<int64_t>(input.keys.size());
    input.keys.push_back(i);
    input.dtypes.push_back(on_device);
    input.model.tensors.push_back({.name = key.name,
                                   .bytes = bytes,
                                   .buffer = key.kind != TensorKind::kParameter,
                                   .computed = key.kind == TensorKind::kNonPersistentBuffer});
  }
  if (report.manifest != nullptr) {
    input.model.modules = report.manifest->modules;
    input.model.no_split_classes = report.manifest->no_split_modules;
  }
  input.model.no_split_classes.insert(input.model.no_split_classes.end(), no_split_classes.begin(),
                                      no_split_classes.end());
  for (const std::vector<uint32_t>& group : report.tied_groups) {
    std::vector<uint32_t> placed;
    for (const uint32_t key : group) {
      if (placed_at[key] >= 0) placed.push_back(static_cast<uint32_t>(placed_at[key]));
    }
    if (placed.size() > 1) input.model.tied_groups.push_back(std::move(placed));
  }
  return input;
}

}  // namespace keyload
