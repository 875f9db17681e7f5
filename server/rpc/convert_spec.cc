#include "server/rpc/convert_spec.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "server/base/digest.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/rpc/convert_device_map.h"
#include "server/rpc/convert_manifest.h"

namespace keyload {
namespace {

absl::Status FieldNotSupported(std::string_view field, std::string_view what = "") {
  return MakeError(Reason::kFieldNotSupported,
                   StrCat("spec.", field, what.empty() ? "" : " = ", what, " is not supported yet"),
                   {{"field", std::string(field)}});
}

// Everything that the contract names and this server does not do yet.
absl::Status RefuseUnsupported(const v1::LoadSpec& spec) {
  if (spec.missing() == v1::MISSING_POLICY_ZEROS) return FieldNotSupported("missing", "ZEROS");
  if (spec.missing() == v1::MISSING_POLICY_INIT) return FieldNotSupported("missing", "INIT");
  if (spec.has_tensor_parallel()) return FieldNotSupported("tensor_parallel");
  return absl::OkStatus();
}

// proto3 enums are open: a number that this build does not know is no default.
absl::Status RefuseUnknownEnums(const v1::LoadSpec& spec) {
  const auto unknown = [](std::string_view field, int value) {
    return MakeError(Reason::kFieldNotSupported, StrCat("spec.", field, " = ", value, " is not known to this server"),
                     {{"field", std::string(field)}});
  };
  if (!v1::Residency_IsValid(spec.residency())) return unknown("residency", spec.residency());
  if (!v1::Reserve_IsValid(spec.reserve())) return unknown("reserve", spec.reserve());
  if (!v1::MissingPolicy_IsValid(spec.missing())) return unknown("missing", spec.missing());
  if (!v1::PageCache_IsValid(spec.page_cache())) return unknown("page_cache", spec.page_cache());
  if (!v1::IfExists_IsValid(spec.if_exists())) return unknown("if_exists", spec.if_exists());
  if (!v1::HostStorage_IsValid(spec.host_storage())) return unknown("host_storage", spec.host_storage());
  if (!v1::ExpectedKeys::From_IsValid(spec.expected().from())) return unknown("expected.from", spec.expected().from());
  return absl::OkStatus();
}

ExpectedSpec::From ExpectedSource(v1::ExpectedKeys::From from) {
  switch (from) {
    case v1::ExpectedKeys::FROM_CHECKPOINT:
      return ExpectedSpec::From::kCheckpoint;
    case v1::ExpectedKeys::FROM_CONFIG:
      return ExpectedSpec::From::kConfig;
    case v1::ExpectedKeys::FROM_MANIFEST:
      return ExpectedSpec::From::kManifest;
    case v1::ExpectedKeys::FROM_LIKE:
      return ExpectedSpec::From::kLike;
    default:
      return ExpectedSpec::From::kDefault;
  }
}

LoadSpec::PageCache PageCacheFrom(v1::PageCache mode) {
  switch (mode) {
    case v1::PAGE_CACHE_DROP:
      return LoadSpec::PageCache::kDrop;
    case v1::PAGE_CACHE_WARM:
      return LoadSpec::PageCache::kWarm;
    case v1::PAGE_CACHE_HOLD:
      return LoadSpec::PageCache::kHold;
    default:
      return LoadSpec::PageCache::kKeep;
  }
}

CheckpointSource SourceFrom(const v1::Source& message) {
  return {.path = message.path(), .weights = message.weights(), .allow_no_weights = message.allow_no_weights()};
}

KeyRules RulesFrom(const v1::KeyRules& message) {
  KeyRules rules;
  if (message.has_base_model_prefix()) rules.base_model_prefix = message.base_model_prefix();
  for (const v1::Rename& rename : message.renames()) rules.renames.push_back({rename.pattern(), rename.replacement()});
  rules.rename_auto = message.rename_auto();
  rules.ignore_missing.assign(message.ignore_missing().begin(), message.ignore_missing().end());
  rules.ignore_unexpected.assign(message.ignore_unexpected().begin(), message.ignore_unexpected().end());
  return rules;
}

std::string BytesOf(const v1::LoadSpec& spec) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    spec.SerializeToCodedStream(&coded);
  }
  return bytes;
}

// Two specs may share a model if they agree in everything but the keys selected, how and when bytes become resident,
// and how the answer is given.
std::string Fingerprint(v1::LoadSpec spec) {
  spec.clear_request_id();
  spec.clear_detach();
  spec.clear_limits();
  spec.clear_if_exists();
  spec.clear_name_limit();
  spec.clear_select();
  spec.clear_residency();
  spec.clear_reserve();
  spec.clear_priority();
  spec.clear_wait_memory();
  // Of these only the default passes, and it may be said or left out.
  spec.clear_missing();
  // A warmed model has every tensor in its file; what a load leaves in the page cache is no content.
  if (spec.page_cache() == v1::PAGE_CACHE_KEEP || spec.page_cache() == v1::PAGE_CACHE_DROP) spec.clear_page_cache();
  if (spec.host_storage() == v1::HOST_STORAGE_MAPPED) spec.clear_host_storage();
  return Sha256Digest(BytesOf(spec));
}

// One load answers all requests that are the same but for what identifies them and how they wait: a retry may be more
// urgent, or have more time.
std::string WithoutIdentity(v1::LoadSpec spec) {
  spec.clear_request_id();
  spec.clear_detach();
  spec.clear_priority();
  spec.clear_wait_memory();
  return BytesOf(spec);
}

absl::StatusOr<absl::Duration> WaitFrom(const google::protobuf::Duration& message) {
  constexpr int64_t kMostSeconds = 315'576'000'000;  // of protobuf's Duration
  const bool valid = message.seconds() >= 0 && message.seconds() <= kMostSeconds && message.nanos() >= 0 &&
                     message.nanos() < 1'000'000'000;
  if (valid) return absl::Seconds(message.seconds()) + absl::Nanoseconds(message.nanos());
  return MakeError(Reason::kBadRequest, "spec.wait_memory is negative or no duration", {{"field", "spec.wait_memory"}});
}

}  // namespace

Limits FromProto(const v1::Limits& message) {
  Limits limits;
  if (message.has_max_missing()) limits.max_missing = message.max_missing();
  if (message.has_max_unexpected()) limits.max_unexpected = message.max_unexpected();
  if (message.has_max_mismatched()) limits.max_mismatched = message.max_mismatched();
  return limits;
}

KeySelectionSpec FromProto(const v1::KeySelection& message) {
  return {.include = {message.include().begin(), message.include().end()},
          .exclude = {message.exclude().begin(), message.exclude().end()},
          .keys = {message.keys().begin(), message.keys().end()}};
}

absl::StatusOr<LoadSpec> FromProto(const v1::LoadSpec& request, const DeviceMapTable* maps) {
  static const DeviceMapTable* const kNoMaps = new DeviceMapTable;
  KEYLOAD_ASSIGN_OR_RETURN(const v1::LoadSpec message, WriteOutDeviceMap(request, maps != nullptr ? *maps : *kNoMaps));
  KEYLOAD_RETURN_IF_ERROR(RefuseUnknownEnums(message));
  KEYLOAD_RETURN_IF_ERROR(RefuseUnsupported(message));
  LoadSpec spec;
  spec.model = message.model();
  spec.source = SourceFrom(message.source());
  spec.select = FromProto(message.select());
  spec.key_list_digest = message.select().key_list_digest();
  spec.expected.from = ExpectedSource(message.expected().from());
  spec.expected.manifest_digest = message.expected().manifest_digest();
  spec.expected.manifest_path = message.expected().manifest_path();
  if (message.expected().has_manifest()) {
    KEYLOAD_ASSIGN_OR_RETURN(spec.expected.manifest, FromProto(message.expected().manifest()));
  }
  if (message.expected().has_like()) spec.expected.like = SourceFrom(message.expected().like());
  spec.rules = RulesFrom(message.rules());
  spec.device_map = FromProto(message.device_map());
  spec.no_split_classes.assign(message.device_map().no_split_classes().begin(),
                               message.device_map().no_split_classes().end());
  for (const v1::VirtualDevice& device : message.device_map().plan_for()) {
    spec.plan_for.push_back({.name = device.device(), .uuid = "", .free_bytes = device.bytes()});
  }
  if (!message.dtype().empty()) {
    spec.dtype = ParseDType(message.dtype());
    if (!spec.dtype) {
      return MakeError(Reason::kDtypeNotSupported,
                       StrCat("spec.dtype \"", message.dtype(),
                              "\" is no dtype; take one of F64, F32, F16 and BF16, or leave it out for what is stored"),
                       {{"dtype", message.dtype()}});
    }
  }
  if (message.host_storage() == v1::HOST_STORAGE_COPIED) spec.host_storage = HostStorage::kCopied;
  if (message.residency() == v1::RESIDENCY_LAZY) spec.residency = LoadSpec::Residency::kLazy;
  spec.page_cache = PageCacheFrom(message.page_cache());
  spec.reserve_now = message.reserve() == v1::RESERVE_NOW;
  spec.limits = FromProto(message.limits());
  if (message.if_exists() == v1::IF_EXISTS_FAIL) spec.if_exists = IfExists::kFail;
  if (message.if_exists() == v1::IF_EXISTS_EXTEND) spec.if_exists = IfExists::kExtend;
  if (message.if_exists() == v1::IF_EXISTS_REPLACE) spec.if_exists = IfExists::kReplace;
  spec.priority = message.priority();
  KEYLOAD_ASSIGN_OR_RETURN(spec.wait_memory, WaitFrom(message.wait_memory()));
  spec.request_id = message.request_id();
  spec.detach = message.detach();
  spec.name_limit = message.name_limit() == 0 ? kDefaultNameLimit : message.name_limit();
  spec.fingerprint = Fingerprint(message);
  spec.request = WithoutIdentity(message);
  spec.digest = Sha256Digest(spec.request);
  return spec;
}

}  // namespace keyload
