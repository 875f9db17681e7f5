#include "server/service/publish.h"

#include <algorithm>

#include "absl/time/clock.h"

#include "server/base/strings.h"

namespace keyload {
namespace {

// An equal second copy of a tied tensor is gone; its key shares the first one's place.
std::vector<uint32_t> TensorOfKey(size_t keys, const LoadPlan& plan, const std::vector<TiedDuplicate>& dropped) {
  std::vector<uint32_t> tensor_of_key(keys, ResidentModel::kNoTensor);
  for (uint32_t i = 0; i < plan.tensors.size(); ++i) tensor_of_key[plan.tensors[i].key] = i;
  for (const TiedDuplicate& copy : dropped) tensor_of_key[plan.tensors[copy.tensor].key] = copy.provider;
  for (const uint32_t key : plan.lazy_keys) tensor_of_key[key] = ResidentModel::kInFile;
  return tensor_of_key;
}

void ReportConflicts(const KeyReport& keys, const LoadPlan& plan, const TransferResult& transferred,
                     LoadReport& report) {
  constexpr size_t kNamed = 5;
  report.keys.tied_conflicts = transferred.conflicts.size();
  for (size_t i = 0; i < std::min(kNamed, transferred.conflicts.size()); ++i) {
    const TiedDuplicate& conflict = transferred.conflicts[i];
    report.warnings.push_back(StrCat(keys.keys[plan.tensors[conflict.tensor].key].name, " is tied to ",
                                     keys.keys[plan.tensors[conflict.provider].key].name,
                                     ", but the checkpoint holds different values for them: both are kept"));
  }
}

}  // namespace

ResidentModel::Content MakeModelContent(const LoadSpec& spec, const PreparedKeys& prepared, PreparedPlan& plan,
                                        LoadedTensors loaded, const ReaderFactory& make_reader, LoadReport& report) {
  const KeyReport& keys = *prepared.keys;
  ResidentModel::Content content;
  content.name = spec.model;
  content.fingerprint = spec.fingerprint;
  content.source_path = spec.source.path;
  content.keys = prepared.keys;
  content.plan = plan.plan;
  content.tensor_of_key = TensorOfKey(keys.keys.size(), *plan.plan, loaded.transferred.equal_duplicates);
  ReportConflicts(keys, *plan.plan, loaded.transferred, report);
  const bool lazy = spec.residency == LoadSpec::Residency::kLazy;
  content.residency = std::make_shared<Residency>(
      Residency::Content{.plan = plan.plan,
                         .segments = std::move(loaded.transferred.segments),
                         .state = lazy ? Residency::State::kLazy : Residency::State::kResident,
                         .dropped = std::move(loaded.transferred.equal_duplicates),
                         .reserved = std::move(loaded.reserved)});
  content.make_reader = make_reader;
  content.devices = plan.placement.devices;
  content.device_of_key.assign(keys.keys.size(), ResidentModel::kNoDevice);
  for (size_t placed = 0; placed < plan.placed_keys.size(); ++placed) {
    content.device_of_key[plan.placed_keys[placed]] = plan.placement.device_of[placed];
  }
  report.keys.loaded = lazy ? 0 : plan.plan->tensors.size();
  report.keys.lazy = plan.plan->lazy_keys.size() + (lazy ? plan.plan->tensors.size() : 0);
  report.outcome = report.keys.missing + report.keys.mismatched > 0 ? Outcome::kIncomplete : Outcome::kComplete;
  content.load_time = absl::Now();
  return content;
}

}  // namespace keyload
