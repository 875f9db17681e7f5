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

void ReportConflicts(const ResidentModel::Content& content, LoadReport& report) {
  constexpr size_t kNamed = 5;
  const auto name = [&](uint32_t tensor) { return content.keys->keys[content.plan->tensors[tensor].key].name; };
  report.keys.tied_conflicts = content.conflicts.size();
  for (size_t i = 0; i < std::min(kNamed, content.conflicts.size()); ++i) {
    const TiedDuplicate& conflict = content.conflicts[i];
    report.warnings.push_back(StrCat(name(conflict.tensor), " is tied to ", name(conflict.provider),
                                     ", but the checkpoint holds different values for them: both are kept"));
  }
}

}  // namespace

void SetDevices(const PreparedPlan& plan, ResidentModel::Content& content) {
  content.devices = plan.placement.devices;
  content.device_of_key.assign(content.keys->keys.size(), ResidentModel::kNoDevice);
  for (size_t placed = 0; placed < plan.placed_keys.size(); ++placed) {
    content.device_of_key[plan.placed_keys[placed]] = plan.placement.device_of[placed];
  }
}

Residency::Content ResidencyOf(const LoadSpec& spec, std::shared_ptr<const LoadPlan> plan, LoadedTensors loaded) {
  const bool lazy = spec.residency == LoadSpec::Residency::kLazy;
  return {.plan = std::move(plan),
          .segments = std::move(loaded.transferred.segments),
          .state = lazy ? Residency::State::kLazy : Residency::State::kResident,
          .dropped = std::move(loaded.transferred.equal_duplicates),
          .reserved = std::move(loaded.reserved)};
}

void KeepHeld(std::vector<HeldPages> held, ResidentModel::Content& content) {
  if (!held.empty()) content.held.push_back(std::make_shared<std::vector<HeldPages>>(std::move(held)));
}

void FinishReport(const ResidentModel::Content& content, LoadReport& report) {
  const Residency::Totals totals = content.residency->totals();
  report.keys.loaded = totals.resident_keys;
  report.keys.lazy = totals.lazy_keys + content.plan->lazy_keys.size();
  for (size_t i = 0; i < report.devices.size(); ++i) report.devices[i].reserved_bytes = totals.devices[i].memory_bytes;
  ReportConflicts(content, report);
  report.outcome = report.keys.missing + report.keys.mismatched > 0 ? Outcome::kIncomplete : Outcome::kComplete;
}

ResidentModel::Content MakeModelContent(const LoadSpec& spec, const PreparedKeys& prepared, PreparedPlan& plan,
                                        LoadedTensors loaded, const ReaderFactory& make_reader, LoadReport& report) {
  ResidentModel::Content content;
  content.name = spec.model;
  content.fingerprint = spec.fingerprint;
  content.source_path = spec.source.path;
  content.keys = prepared.keys;
  content.plan = plan.plan;
  content.tensor_of_key = TensorOfKey(prepared.keys->keys.size(), *plan.plan, loaded.transferred.equal_duplicates);
  content.conflicts = std::move(loaded.transferred.conflicts);
  KeepHeld(std::move(loaded.held), content);
  content.residency = std::make_shared<Residency>(ResidencyOf(spec, plan.plan, std::move(loaded)));
  content.make_reader = make_reader;
  SetDevices(plan, content);
  FinishReport(content, report);
  content.load_time = absl::Now();
  return content;
}

}  // namespace keyload
