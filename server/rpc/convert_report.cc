#include "server/rpc/convert_report.h"

#include <google/protobuf/util/time_util.h>

#include "server/base/utf8.h"
#include "server/rpc/grpc_status.h"

namespace keyload {
namespace {

using google::protobuf::util::TimeUtil;

constexpr uint64_t kRestOfReportBytes = 384 << 10;  // of what is no long list: devices, phases, an error
constexpr uint64_t kMapBytes = 3 << 20;             // of the map of one model

google::protobuf::Duration ToProto(absl::Duration duration) {
  return TimeUtil::NanosecondsToDuration(absl::ToInt64Nanoseconds(duration));
}

google::protobuf::Timestamp ToProto(absl::Time time) {
  return TimeUtil::NanosecondsToTimestamp(absl::ToUnixNanos(time));
}

v1::KeyCounts ToProto(const KeyCounts& counts) {
  v1::KeyCounts message;
  message.set_expected(counts.expected);
  message.set_selected(counts.selected);
  message.set_not_selected(counts.not_selected);
  message.set_loaded(counts.loaded);
  message.set_lazy(counts.lazy);
  message.set_initialized(counts.initialized);
  message.set_missing(counts.missing);
  message.set_missing_ignored(counts.missing_ignored);
  message.set_missing_tied(counts.missing_tied);
  message.set_unexpected(counts.unexpected);
  message.set_unexpected_ignored(counts.unexpected_ignored);
  message.set_mismatched(counts.mismatched);
  message.set_tied_conflicts(counts.tied_conflicts);
  return message;
}

v1::MismatchedKey ToProto(const MismatchedKey& key) {
  v1::MismatchedKey message;
  message.set_key(key.key);
  message.mutable_expected_shape()->Add(key.expected_shape.begin(), key.expected_shape.end());
  message.mutable_found_shape()->Add(key.found_shape.begin(), key.found_shape.end());
  message.set_expected_dtype(std::string(DTypeName(key.expected_dtype)));
  message.set_found_dtype(std::string(DTypeName(key.found_dtype)));
  return message;
}

v1::MapEntry ToProto(const MapEntry& entry) {
  v1::MapEntry message;
  message.set_module(entry.module);
  message.set_device(entry.device);
  return message;
}

v1::DeviceUse ToProto(const DeviceUse& use) {
  v1::DeviceUse message;
  message.set_device(use.device);
  message.set_uuid(use.uuid);
  message.set_simulated(use.simulated);
  message.set_tensors(use.tensors);
  message.set_tensor_bytes(use.tensor_bytes);
  message.set_reserved_bytes(use.reserved_bytes);
  message.set_copied_bytes(use.copied_bytes);
  *message.mutable_copy_duration() = ToProto(use.copy_duration);
  message.set_missing_bytes(use.missing_bytes);
  return message;
}

v1::Phase ToProto(const Phase& phase) {
  v1::Phase message;
  message.set_name(phase.name);
  *message.mutable_start() = ToProto(phase.start);
  *message.mutable_duration() = ToProto(phase.duration);
  return message;
}

v1::Bytes ToProto(const ByteCounts& bytes) {
  v1::Bytes message;
  message.set_selected(bytes.selected);
  message.set_read(bytes.read);
  message.set_mapped(bytes.mapped);
  message.set_cached(bytes.cached);
  message.set_peak_scratch(bytes.peak_scratch);
  return message;
}

v1::ShardUse ToProto(const ShardUse& use) {
  v1::ShardUse message;
  message.set_file(ToUtf8(use.file));
  message.set_tensors(use.tensors);
  message.set_selected_bytes(use.selected_bytes);
  message.set_read_bytes(use.read_bytes);
  message.set_engine(use.engine);
  *message.mutable_duration() = ToProto(use.duration);
  return message;
}

v1::ModelState ToProto(ModelState state) {
  switch (state) {
    case ModelState::kUnloaded:
      return v1::MODEL_STATE_UNLOADED;
    case ModelState::kLoading:
      return v1::MODEL_STATE_LOADING;
    case ModelState::kLazy:
      return v1::MODEL_STATE_LAZY;
    case ModelState::kPartial:
      return v1::MODEL_STATE_PARTIAL;
    case ModelState::kResident:
      return v1::MODEL_STATE_RESIDENT;
    case ModelState::kReplacing:
      return v1::MODEL_STATE_REPLACING;
    case ModelState::kUnloading:
      return v1::MODEL_STATE_UNLOADING;
    case ModelState::kFailed:
      return v1::MODEL_STATE_FAILED;
  }
  return v1::MODEL_STATE_UNSPECIFIED;
}

v1::Finding ToProto(const Finding& finding) {
  v1::Finding message;
  message.set_rule(std::string(finding.rule));
  message.set_message(ToUtf8(finding.message));
  message.set_count(finding.count);
  for (const std::string& name : finding.names) message.add_names(ToUtf8(name));
  message.set_lacks(finding.lacks);
  return message;
}

uint64_t EntryBytes(const std::string& entry) { return entry.size(); }
uint64_t EntryBytes(const google::protobuf::Message& entry) { return entry.ByteSizeLong(); }

// Keeps the first entries of `list`, in half of `room`, and takes their bytes off it. Returns how many are left out.
template <typename List>
uint64_t CutList(List& list, uint64_t& room) {
  constexpr uint64_t kFraming = 6;
  const uint64_t most = room / 2;
  uint64_t bytes = 0;
  int kept = 0;
  for (; kept < list.size(); ++kept) {
    const uint64_t entry = EntryBytes(list.Get(kept)) + kFraming;
    if (bytes + entry > most) break;
    bytes += entry;
  }
  room -= bytes;
  const int left_out = list.size() - kept;
  list.DeleteSubrange(kept, left_out);
  return static_cast<uint64_t>(left_out);
}

template <typename Values, typename Field>
void FillMessages(const Values& values, Field* field) {
  field->Reserve(static_cast<int>(values.size()));
  for (const auto& value : values) *field->Add() = ToProto(value);
}

}  // namespace

v1::LoadReport::Outcome ToProto(Outcome outcome) {
  switch (outcome) {
    case Outcome::kPlanned:
      return v1::LoadReport::OUTCOME_PLANNED;
    case Outcome::kComplete:
      return v1::LoadReport::OUTCOME_COMPLETE;
    case Outcome::kIncomplete:
      return v1::LoadReport::OUTCOME_INCOMPLETE;
    case Outcome::kRejected:
      return v1::LoadReport::OUTCOME_REJECTED;
    case Outcome::kCancelled:
      return v1::LoadReport::OUTCOME_CANCELLED;
    case Outcome::kFailed:
      return v1::LoadReport::OUTCOME_FAILED;
  }
  return v1::LoadReport::OUTCOME_UNSPECIFIED;
}

v1::ExpectedKeys::From ToProto(ExpectedFrom from) {
  switch (from) {
    case ExpectedFrom::kCheckpoint:
      return v1::ExpectedKeys::FROM_CHECKPOINT;
    case ExpectedFrom::kConfig:
      return v1::ExpectedKeys::FROM_CONFIG;
    case ExpectedFrom::kManifest:
      return v1::ExpectedKeys::FROM_MANIFEST;
    case ExpectedFrom::kLike:
      return v1::ExpectedKeys::FROM_LIKE;
  }
  return v1::ExpectedKeys::FROM_UNSPECIFIED;
}

void CutReport(v1::LoadReport& report, uint64_t bytes) {
  if (report.ByteSizeLong() <= bytes) return;
  uint64_t room = bytes > kRestOfReportBytes ? bytes - kRestOfReportBytes : 0;
  report.set_warnings_left_out(report.warnings_left_out() + CutList(*report.mutable_warnings(), room));
  report.set_device_map_left_out(report.device_map_left_out() + CutList(*report.mutable_device_map(), room));
  report.set_missing_keys_left_out(report.missing_keys_left_out() + CutList(*report.mutable_missing_keys(), room));
  report.set_unexpected_keys_left_out(report.unexpected_keys_left_out() +
                                      CutList(*report.mutable_unexpected_keys(), room));
  report.set_mismatched_keys_left_out(report.mismatched_keys_left_out() +
                                      CutList(*report.mutable_mismatched_keys(), room));
  report.set_shards_left_out(report.shards_left_out() + CutList(*report.mutable_shards(), room));
}

v1::LoadReport ToProto(const LoadReport& report) {
  v1::LoadReport message;
  message.set_load(report.load);
  message.set_model(report.model);
  message.set_generation(report.generation);
  message.set_request_id(ToUtf8(report.request_id));
  message.set_outcome(ToProto(report.outcome));
  if (!report.error.ok()) *message.mutable_error() = ToLoadError(report.error);
  message.set_expected_from(ToProto(report.expected_from));
  *message.mutable_keys() = ToProto(report.keys);
  message.mutable_missing_keys()->Add(report.missing_keys.begin(), report.missing_keys.end());
  message.mutable_unexpected_keys()->Add(report.unexpected_keys.begin(), report.unexpected_keys.end());
  FillMessages(report.mismatched_keys, message.mutable_mismatched_keys());
  FillMessages(report.device_map, message.mutable_device_map());
  FillMessages(report.devices, message.mutable_devices());
  FillMessages(report.phases, message.mutable_phases());
  FillMessages(report.busy, message.mutable_busy());
  *message.mutable_total_duration() = ToProto(report.total);
  *message.mutable_bytes() = ToProto(report.bytes);
  FillMessages(report.shards, message.mutable_shards());
  for (const std::string& warning : report.warnings) message.add_warnings(ToUtf8(warning));
  message.set_compared_with(ToUtf8(report.compared_with));
  FillMessages(report.findings, message.mutable_findings());
  *message.mutable_start_time() = ToProto(report.start_time);
  CutReport(message, kMaxReportBytes);
  return message;
}

v1::LoadProgress ToProto(const LoadProgress& progress) {
  v1::LoadProgress message;
  message.set_phase(progress.phase);
  message.set_bytes_done(progress.bytes_done);
  message.set_bytes_total(progress.bytes_total);
  message.set_tensors_done(progress.tensors_done);
  message.set_tensors_total(progress.tensors_total);
  message.set_queue_position(progress.queue_position);
  return message;
}

v1::LoadStatus ToProto(const LoadStatus& status) {
  v1::LoadStatus message;
  message.set_load(status.identity.load);
  message.set_model(status.identity.model);
  message.set_done(status.done);
  if (status.progress) *message.mutable_progress() = ToProto(*status.progress);
  if (status.result == nullptr) return message;
  if (status.result->ok()) {
    *message.mutable_report() = ToProto(**status.result);
  } else {
    *message.mutable_error() = ToLoadError(status.result->status());
  }
  return message;
}

v1::Model ToProto(const ModelInfo& info, bool with_map) {
  v1::Model message;
  message.set_name(info.name);
  message.set_state(ToProto(info.state));
  message.set_generation(info.generation);
  if (info.model == nullptr) return message;
  const ResidentModel::Content& content = info.model->content();
  message.mutable_source()->set_path(content.source_path);
  if (content.keys->manifest != nullptr) message.set_architecture(content.keys->manifest->architecture);
  *message.mutable_keys() = ToProto(info.model->LiveKeys());
  if (with_map) {
    FillMessages(content.report.device_map, message.mutable_device_map());
    uint64_t room = 2 * kMapBytes;
    message.set_device_map_left_out(CutList(*message.mutable_device_map(), room));
  } else {
    message.set_device_map_left_out(content.report.device_map.size());
  }
  FillMessages(info.model->LiveDevices(), message.mutable_devices());
  *message.mutable_load_time() = ToProto(content.load_time);
  *message.mutable_last_use_time() = ToProto(info.last_use);
  message.set_last_load(content.report.load);
  return message;
}

v1::Model ToProto(const ModelRegistry::Change& change) {
  v1::Model message;
  message.set_name(change.name);
  message.set_state(ToProto(change.state));
  message.set_generation(change.generation);
  return message;
}

v1::KeyState ToProto(ListedState state) {
  switch (state) {
    case ListedState::kResident:
      return v1::KEY_STATE_RESIDENT;
    case ListedState::kLazy:
      return v1::KEY_STATE_LAZY;
    case ListedState::kMissing:
      return v1::KEY_STATE_MISSING;
    case ListedState::kUnexpected:
      return v1::KEY_STATE_UNEXPECTED;
    case ListedState::kMismatched:
      return v1::KEY_STATE_MISMATCHED;
    case ListedState::kIgnored:
      return v1::KEY_STATE_IGNORED;
    case ListedState::kNotSelected:
      return v1::KEY_STATE_NOT_SELECTED;
  }
  return v1::KEY_STATE_UNSPECIFIED;
}

v1::KeyInfo ToProto(const ListedKey& key) {
  v1::KeyInfo message;
  message.set_key(std::string(key.key));
  message.set_state(ToProto(key.state));
  message.set_dtype(std::string(DTypeName(key.dtype)));
  message.mutable_shape()->Add(key.shape.begin(), key.shape.end());
  message.set_device(std::string(key.device));
  message.set_shard(ToUtf8(key.shard));
  message.set_file_offset(key.file_offset);
  message.set_bytes(key.bytes);
  message.set_tied_to(std::string(key.tied_to));
  return message;
}

v1::Device ToProto(Device& device) {
  const MemoryState state = device.account().state();
  v1::Device message;
  message.set_device(device.info().name);
  message.set_uuid(device.info().uuid);
  message.set_name(device.info().model);
  message.set_simulated(device.info().simulated);
  message.set_capacity_bytes(state.capacity);
  message.set_free_bytes(state.free());
  message.set_used_bytes(state.used);
  message.set_reserved_bytes(state.reserved);
  message.set_state("READY");
  return message;
}

}  // namespace keyload
