#include "server/service/publish.h"

#include <algorithm>

#include "absl/time/clock.h"

#include "server/base/strings.h"

namespace keyload {
namespace {

void PlaceLoaded(const LoadPlan& plan, std::vector<TensorPlace>& places) {
  for (const PlannedTensor& tensor : plan.tensors) {
    places[tensor.key] = {.state = TensorPlace::State::kResident,
                          .dtype = tensor.dtype,
                          .segment = tensor.segment,
                          .offset = tensor.segment_offset,
                          .bytes = tensor.bytes};
  }
}

// An equal second copy of a tied tensor is gone; its key shares the first one's place.
void ShareEqualCopies(const LoadPlan& plan, const TransferResult& transferred, std::vector<TensorPlace>& places) {
  for (const TiedDuplicate& duplicate : transferred.equal_duplicates) {
    places[plan.tensors[duplicate.tensor].key] = places[plan.tensors[duplicate.provider].key];
  }
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
                                        TransferResult transferred, const ReaderFactory& make_reader,
                                        LoadReport& report) {
  const KeyReport& keys = *prepared.keys;
  ResidentModel::Content content;
  content.name = spec.model;
  content.fingerprint = spec.fingerprint;
  content.source_path = spec.source.path;
  content.keys = prepared.keys;
  content.places.resize(keys.keys.size());
  PlaceLoaded(*plan.plan, content.places);
  ShareEqualCopies(*plan.plan, transferred, content.places);
  ReportConflicts(keys, *plan.plan, transferred, report);

  content.readers = std::move(transferred.readers);
  content.readers.resize(keys.index->shards().size());
  for (const uint32_t key : plan.plan->lazy_keys) {
    const StoredTensor& stored = keys.index->tensors()[keys.keys[key].stored];
    content.places[key] = {.state = TensorPlace::State::kLazy,
                           .dtype = stored.dtype,
                           .segment = 0,
                           .offset = stored.offset,
                           .bytes = stored.bytes};
    if (content.readers[stored.shard] == nullptr)
      content.readers[stored.shard] = make_reader(keys.index->shards()[stored.shard]);
  }
  content.segments = std::move(transferred.segments);

  content.devices = plan.placement.devices;
  content.device_of_key.assign(keys.keys.size(), ResidentModel::kNoDevice);
  for (size_t placed = 0; placed < plan.placed_keys.size(); ++placed) {
    content.device_of_key[plan.placed_keys[placed]] = plan.placement.device_of[placed];
  }

  report.keys.loaded = plan.plan->tensors.size();
  report.keys.lazy = plan.plan->lazy_keys.size();
  report.outcome = report.keys.missing + report.keys.mismatched > 0 ? Outcome::kIncomplete : Outcome::kComplete;
  content.load_time = absl::Now();
  return content;
}

}  // namespace keyload
