#include "server/rpc/parse_report.h"

#include <google/protobuf/util/time_util.h>

#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/rpc/convert_report.h"

namespace keyload {
namespace {

using google::protobuf::util::TimeUtil;

absl::Duration FromProto(const google::protobuf::Duration& message) {
  return absl::Nanoseconds(TimeUtil::DurationToNanoseconds(message));
}

// The value of `values` that ToProto makes `wanted` of.
template <typename Value, typename Wanted>
absl::StatusOr<Value> Inverse(std::initializer_list<Value> values, Wanted wanted) {
  for (const Value value : values) {
    if (ToProto(value) == wanted) return value;
  }
  return MakeError(Reason::kInternal, StrCat("a report with the unknown value ", static_cast<int>(wanted)));
}

KeyCounts FromProto(const v1::KeyCounts& message) {
  return {.expected = message.expected(),
          .selected = message.selected(),
          .not_selected = message.not_selected(),
          .loaded = message.loaded(),
          .lazy = message.lazy(),
          .initialized = message.initialized(),
          .missing = message.missing(),
          .missing_ignored = message.missing_ignored(),
          .missing_tied = message.missing_tied(),
          .unexpected = message.unexpected(),
          .unexpected_ignored = message.unexpected_ignored(),
          .mismatched = message.mismatched(),
          .tied_conflicts = message.tied_conflicts()};
}

absl::StatusOr<MismatchedKey> FromProto(const v1::MismatchedKey& message) {
  const std::optional<DType> expected = ParseDType(message.expected_dtype());
  const std::optional<DType> found = ParseDType(message.found_dtype());
  if (!expected || !found) return MakeError(Reason::kInternal, "a report with an unknown dtype");
  MismatchedKey key = {.key = message.key(), .expected_dtype = *expected, .found_dtype = *found};
  key.expected_shape.assign(message.expected_shape().begin(), message.expected_shape().end());
  key.found_shape.assign(message.found_shape().begin(), message.found_shape().end());
  return key;
}

DeviceUse FromProto(const v1::DeviceUse& message) {
  return {.device = message.device(),
          .uuid = message.uuid(),
          .simulated = message.simulated(),
          .tensors = message.tensors(),
          .tensor_bytes = message.tensor_bytes(),
          .reserved_bytes = message.reserved_bytes(),
          .copied_bytes = message.copied_bytes(),
          .copy_duration = FromProto(message.copy_duration()),
          .missing_bytes = message.missing_bytes()};
}

ShardUse FromProto(const v1::ShardUse& message) {
  return {.file = message.file(),
          .tensors = message.tensors(),
          .selected_bytes = message.selected_bytes(),
          .read_bytes = message.read_bytes(),
          .engine = message.engine(),
          .duration = FromProto(message.duration())};
}

Finding FromProto(const v1::Finding& message) {
  return {.rule = message.rule(),
          .message = message.message(),
          .count = message.count(),
          .names = {message.names().begin(), message.names().end()},
          .lacks = message.lacks()};
}

Phase FromProto(const v1::Phase& message) {
  return {.name = message.name(), .start = FromProto(message.start()), .duration = FromProto(message.duration())};
}

}  // namespace

absl::Status FromProto(const v1::LoadError& message) {
  const std::optional<Reason> reason = FindReason(message.reason());
  if (!reason) return MakeError(Reason::kInternal, message.message());
  return MakeError(*reason, message.message(), {message.metadata().begin(), message.metadata().end()});
}

absl::StatusOr<LoadReport> FromProto(const v1::LoadReport& message) {
  LoadReport report;
  report.load = message.load();
  report.model = message.model();
  report.request_id = message.request_id();
  report.generation = message.generation();
  KEYLOAD_ASSIGN_OR_RETURN(report.outcome, Inverse({Outcome::kPlanned, Outcome::kComplete, Outcome::kIncomplete,
                                                    Outcome::kRejected, Outcome::kCancelled, Outcome::kFailed},
                                                   message.outcome()));
  if (message.has_error()) report.error = FromProto(message.error());
  KEYLOAD_ASSIGN_OR_RETURN(report.expected_from, Inverse({ExpectedFrom::kCheckpoint, ExpectedFrom::kConfig,
                                                          ExpectedFrom::kManifest, ExpectedFrom::kLike},
                                                         message.expected_from()));
  report.keys = FromProto(message.keys());
  report.missing_keys.assign(message.missing_keys().begin(), message.missing_keys().end());
  report.unexpected_keys.assign(message.unexpected_keys().begin(), message.unexpected_keys().end());
  for (const v1::MismatchedKey& key : message.mismatched_keys()) {
    KEYLOAD_ASSIGN_OR_RETURN(MismatchedKey parsed, FromProto(key));
    report.mismatched_keys.push_back(std::move(parsed));
  }
  for (const v1::MapEntry& entry : message.device_map()) {
    report.device_map.push_back({.module = entry.module(), .device = entry.device()});
  }
  for (const v1::DeviceUse& use : message.devices()) report.devices.push_back(FromProto(use));
  for (const v1::Phase& phase : message.phases()) report.phases.push_back(FromProto(phase));
  for (const v1::Phase& phase : message.busy()) report.busy.push_back(FromProto(phase));
  report.total = FromProto(message.total_duration());
  report.bytes = {.selected = message.bytes().selected(),
                  .read = message.bytes().read(),
                  .mapped = message.bytes().mapped(),
                  .cached = message.bytes().cached(),
                  .peak_scratch = message.bytes().peak_scratch()};
  for (const v1::ShardUse& shard : message.shards()) report.shards.push_back(FromProto(shard));
  report.warnings.assign(message.warnings().begin(), message.warnings().end());
  report.compared_with = message.compared_with();
  for (const v1::Finding& finding : message.findings()) report.findings.push_back(FromProto(finding));
  report.start_time = absl::FromUnixNanos(TimeUtil::TimestampToNanoseconds(message.start_time()));
  return report;
}

}  // namespace keyload
