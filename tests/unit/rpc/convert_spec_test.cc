#include "server/rpc/convert_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <ostream>

#include "server/base/error.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::Pair;

v1::LoadSpec Message() {
  v1::LoadSpec spec;
  spec.set_model("m");
  spec.mutable_source()->set_path("/models/m");
  return spec;
}

void AddTensor(v1::ModelManifest& manifest) {
  v1::TensorSpec& tensor = *manifest.add_tensors();
  tensor.set_name("w");
  tensor.set_dtype("F32");
}

struct Change {
  const char* name;  // of the test
  const char* field;
  std::function<void(v1::LoadSpec&)> apply;
};
void PrintTo(const Change& tested, std::ostream* out) { *out << tested.name; }

std::string TestName(const testing::TestParamInfo<Change>& info) { return info.param.name; }

class UnsupportedField : public testing::TestWithParam<Change> {};

TEST_P(UnsupportedField, IsRefusedByName) {
  v1::LoadSpec spec = Message();
  GetParam().apply(spec);
  const absl::Status status = FromProto(spec).status();
  EXPECT_EQ(ErrorReason(status), Reason::kFieldNotSupported) << status;
  EXPECT_EQ(ErrorDetails(status)["field"], GetParam().field);
  const std::string_view field = GetParam().field;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(std::string(field.substr(field.rfind('.') + 1))));
}

INSTANTIATE_TEST_SUITE_P(
    All, UnsupportedField,
    testing::Values(
        Change{"UnknownResidency", "residency", [](auto& spec) { spec.set_residency(static_cast<v1::Residency>(77)); }},
        Change{"UnknownReserve", "reserve", [](auto& spec) { spec.set_reserve(static_cast<v1::Reserve>(77)); }},
        Change{"Zeros", "missing", [](auto& spec) { spec.set_missing(v1::MISSING_POLICY_ZEROS); }},
        Change{"Init", "missing", [](auto& spec) { spec.set_missing(v1::MISSING_POLICY_INIT); }},
        Change{"UnknownMissing", "missing", [](auto& spec) { spec.set_missing(static_cast<v1::MissingPolicy>(-1)); }},
        Change{"UnknownIfExists", "if_exists", [](auto& spec) { spec.set_if_exists(static_cast<v1::IfExists>(77)); }},
        Change{"UnknownCache", "page_cache", [](auto& spec) { spec.set_page_cache(static_cast<v1::PageCache>(77)); }},
        Change{"NegativeCache", "page_cache", [](auto& spec) { spec.set_page_cache(static_cast<v1::PageCache>(-1)); }},
        Change{"TensorParallel", "tensor_parallel", [](auto& spec) { spec.mutable_tensor_parallel(); }},
        Change{"UnknownFrom", "expected.from",
               [](auto& spec) { spec.mutable_expected()->set_from(static_cast<v1::ExpectedKeys::From>(77)); }}),
    TestName);

// Says a default aloud, which keys and when, or how the answer is given.
class SameContent : public testing::TestWithParam<Change> {};

TEST_P(SameContent, HasTheSameFingerprint) {
  v1::LoadSpec spec = Message();
  GetParam().apply(spec);
  const absl::StatusOr<LoadSpec> changed = FromProto(spec);
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_EQ(changed->fingerprint, FromProto(Message())->fingerprint);
}

INSTANTIATE_TEST_SUITE_P(
    All, SameContent,
    testing::Values(Change{"RequestId", "", [](auto& spec) { spec.set_request_id("r"); }},
                    Change{"Detach", "", [](auto& spec) { spec.set_detach(true); }},
                    Change{"Priority", "", [](auto& spec) { spec.set_priority(-3); }},
                    Change{"WaitMemory", "", [](auto& spec) { spec.mutable_wait_memory()->set_seconds(1); }},
                    Change{"Replace", "", [](auto& spec) { spec.set_if_exists(v1::IF_EXISTS_REPLACE); }},
                    Change{"Limits", "", [](auto& spec) { spec.mutable_limits()->set_max_missing(0); }},
                    Change{"NameLimit", "", [](auto& spec) { spec.set_name_limit(7); }},
                    Change{"IfExists", "", [](auto& spec) { spec.set_if_exists(v1::IF_EXISTS_FAIL); }},
                    Change{"Extend", "", [](auto& spec) { spec.set_if_exists(v1::IF_EXISTS_EXTEND); }},
                    Change{"Eager", "", [](auto& spec) { spec.set_residency(v1::RESIDENCY_EAGER); }},
                    Change{"Lazy", "", [](auto& spec) { spec.set_residency(v1::RESIDENCY_LAZY); }},
                    Change{"Reserve", "", [](auto& spec) { spec.set_reserve(v1::RESERVE_NOW); }},
                    Change{"Include", "", [](auto& spec) { spec.mutable_select()->add_include("a"); }},
                    Change{"Exclude", "", [](auto& spec) { spec.mutable_select()->add_exclude("a"); }},
                    Change{"Keys", "", [](auto& spec) { spec.mutable_select()->add_keys("a"); }},
                    Change{"KeyList", "", [](auto& spec) { spec.mutable_select()->set_key_list_digest("sha256:1"); }},
                    Change{"LeaveMissing", "", [](auto& spec) { spec.set_missing(v1::MISSING_POLICY_LEAVE); }},
                    Change{"DropCache", "", [](auto& spec) { spec.set_page_cache(v1::PAGE_CACHE_DROP); }},
                    Change{"KeepCache", "", [](auto& spec) { spec.set_page_cache(v1::PAGE_CACHE_KEEP); }}),
    TestName);

class OtherContent : public testing::TestWithParam<Change> {};

TEST_P(OtherContent, HasAnotherFingerprint) {
  v1::LoadSpec spec = Message();
  GetParam().apply(spec);
  const absl::StatusOr<LoadSpec> changed = FromProto(spec);
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_NE(changed->fingerprint, FromProto(Message())->fingerprint);
}

INSTANTIATE_TEST_SUITE_P(
    All, OtherContent,
    testing::Values(
        Change{"Model", "", [](auto& spec) { spec.set_model("n"); }},
        Change{"Path", "", [](auto& spec) { spec.mutable_source()->set_path("/n"); }},
        Change{"Weights", "", [](auto& spec) { spec.mutable_source()->set_weights("fp16"); }},
        Change{"NoWeights", "", [](auto& spec) { spec.mutable_source()->set_allow_no_weights(true); }},
        Change{"From", "", [](auto& spec) { spec.mutable_expected()->set_from(v1::ExpectedKeys::FROM_CHECKPOINT); }},
        Change{"ManifestDigest", "", [](auto& spec) { spec.mutable_expected()->set_manifest_digest("sha256:1"); }},
        Change{"ManifestPath", "", [](auto& spec) { spec.mutable_expected()->set_manifest_path("/m"); }},
        Change{"Manifest", "", [](auto& spec) { AddTensor(*spec.mutable_expected()->mutable_manifest()); }},
        Change{"Prefix", "", [](auto& spec) { spec.mutable_rules()->set_base_model_prefix(""); }},
        Change{"Rename", "", [](auto& spec) { spec.mutable_rules()->add_renames()->set_pattern("a"); }},
        Change{"IgnoreMissing", "", [](auto& spec) { spec.mutable_rules()->add_ignore_missing("a"); }},
        Change{"IgnoreUnexpected", "", [](auto& spec) { spec.mutable_rules()->add_ignore_unexpected("a"); }},
        Change{"Policy", "", [](auto& spec) { spec.mutable_device_map()->set_policy("auto"); }},
        Change{"Entries", "", [](auto& spec) { (*spec.mutable_device_map()->mutable_entries())[""] = "cpu"; }},
        Change{"MaxMemory", "", [](auto& spec) { (*spec.mutable_device_map()->mutable_max_memory())["0"] = 1; }},
        Change{"NoSplit", "", [](auto& spec) { spec.mutable_device_map()->add_no_split_classes("A"); }},
        Change{"OffloadBuffers", "", [](auto& spec) { spec.mutable_device_map()->set_offload_buffers(true); }},
        Change{"Fallback", "", [](auto& spec) { spec.mutable_device_map()->set_fallback_allocation(true); }},
        Change{"Warm", "", [](auto& spec) { spec.set_page_cache(v1::PAGE_CACHE_WARM); }},
        Change{"Hold", "", [](auto& spec) { spec.set_page_cache(v1::PAGE_CACHE_HOLD); }},
        Change{"DType", "", [](auto& spec) { spec.set_dtype("BF16"); }}),
    TestName);

TEST(ConvertSpec, OneLoadAnswersRequestsThatDifferInWhatIdentifiesThem) {
  v1::LoadSpec other = Message();
  other.set_request_id("r");
  other.set_detach(true);
  other.set_priority(3);
  other.mutable_wait_memory()->set_seconds(3);
  EXPECT_EQ(FromProto(other)->digest, FromProto(Message())->digest);
  EXPECT_EQ(FromProto(other)->request_id, "r");
  EXPECT_TRUE(FromProto(other)->detach);
  for (const auto& change : {+[](v1::LoadSpec& spec) { spec.set_name_limit(7); },
                             +[](v1::LoadSpec& spec) { spec.mutable_limits()->set_max_missing(0); },
                             +[](v1::LoadSpec& spec) { spec.mutable_select()->add_keys("a"); },
                             +[](v1::LoadSpec& spec) { spec.set_residency(v1::RESIDENCY_LAZY); },
                             +[](v1::LoadSpec& spec) { spec.set_if_exists(v1::IF_EXISTS_REPLACE); }}) {
    v1::LoadSpec spec = Message();
    change(spec);
    EXPECT_NE(FromProto(spec)->digest, FromProto(Message())->digest) << spec.ShortDebugString();
  }
}

TEST(ConvertSpec, HowALoadWaitsIsTakenOver) {
  v1::LoadSpec message = Message();
  EXPECT_EQ(FromProto(message)->priority, 0);
  EXPECT_EQ(FromProto(message)->wait_memory, absl::ZeroDuration());
  message.set_priority(-3);
  message.mutable_wait_memory()->set_seconds(1);
  message.mutable_wait_memory()->set_nanos(500'000'000);
  EXPECT_EQ(FromProto(message)->priority, -3);
  EXPECT_EQ(FromProto(message)->wait_memory, absl::Milliseconds(1500));
  for (const int64_t seconds : {int64_t{-1}, std::numeric_limits<int64_t>::max()}) {
    message.mutable_wait_memory()->set_seconds(seconds);
    const absl::Status status = FromProto(message).status();
    EXPECT_EQ(ErrorReason(status), Reason::kBadRequest) << seconds;
    EXPECT_EQ(ErrorDetails(status)["field"], "spec.wait_memory");
  }
}

TEST(ConvertSpec, ResidencyIsTakenOver) {
  v1::LoadSpec message = Message();
  EXPECT_EQ(FromProto(message)->residency, LoadSpec::Residency::kEager);
  message.set_residency(v1::RESIDENCY_LAZY);
  message.set_reserve(v1::RESERVE_ON_DEMAND);
  EXPECT_EQ(FromProto(message)->residency, LoadSpec::Residency::kLazy);
  EXPECT_FALSE(FromProto(message)->reserve_now);
  message.set_reserve(v1::RESERVE_NOW);
  EXPECT_TRUE(FromProto(message)->reserve_now);
}

TEST(ConvertSpec, TheOrderOfMapEntriesDoesNotCount) {
  v1::LoadSpec forward = Message();
  v1::LoadSpec backward = Message();
  for (int i = 0; i < 100; ++i) (*forward.mutable_device_map()->mutable_entries())["m" + std::to_string(i)] = "cpu";
  for (int i = 99; i >= 0; --i) (*backward.mutable_device_map()->mutable_entries())["m" + std::to_string(i)] = "cpu";
  EXPECT_EQ(FromProto(forward)->fingerprint, FromProto(backward)->fingerprint);
}

TEST(ConvertSpec, SourceAndSelectionArrive) {
  v1::LoadSpec message = Message();
  message.mutable_source()->set_weights("fp16");
  message.mutable_source()->set_allow_no_weights(true);
  message.mutable_select()->add_include("i*");
  message.mutable_select()->add_exclude("e*");
  message.mutable_select()->add_keys("k");
  message.mutable_select()->set_key_list_digest("sha256:1");
  const absl::StatusOr<LoadSpec> spec = FromProto(message);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->model, "m");
  EXPECT_EQ(spec->source.path, "/models/m");
  EXPECT_EQ(spec->source.weights, "fp16");
  EXPECT_TRUE(spec->source.allow_no_weights);
  EXPECT_THAT(spec->select.include, ElementsAre("i*"));
  EXPECT_THAT(spec->select.exclude, ElementsAre("e*"));
  EXPECT_THAT(spec->select.keys, ElementsAre("k"));
  EXPECT_EQ(spec->key_list_digest, "sha256:1");
}

TEST(ConvertSpec, ExpectedKeysArrive) {
  v1::LoadSpec message = Message();
  message.mutable_expected()->set_from(v1::ExpectedKeys::FROM_MANIFEST);
  message.mutable_expected()->set_manifest_digest("sha256:2");
  message.mutable_expected()->set_manifest_path("/models/manifest");
  message.mutable_expected()->mutable_manifest()->set_architecture("Net");
  AddTensor(*message.mutable_expected()->mutable_manifest());
  const absl::StatusOr<LoadSpec> spec = FromProto(message);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->expected.from, ExpectedSpec::From::kManifest);
  EXPECT_EQ(spec->expected.manifest_digest, "sha256:2");
  EXPECT_EQ(spec->expected.manifest_path, "/models/manifest");
  ASSERT_NE(spec->expected.manifest, nullptr);
  EXPECT_EQ(spec->expected.manifest->architecture, "Net");
}

TEST(ConvertSpec, EverySourceOfExpectedKeysArrives) {
  v1::LoadSpec message = Message();
  const auto arrives = [&](v1::ExpectedKeys::From from) {
    message.mutable_expected()->set_from(from);
    return FromProto(message)->expected.from;
  };
  EXPECT_EQ(arrives(v1::ExpectedKeys::FROM_UNSPECIFIED), ExpectedSpec::From::kDefault);
  EXPECT_EQ(arrives(v1::ExpectedKeys::FROM_CHECKPOINT), ExpectedSpec::From::kCheckpoint);
  EXPECT_EQ(arrives(v1::ExpectedKeys::FROM_CONFIG), ExpectedSpec::From::kConfig);
}

TEST(ConvertSpec, RulesArrive) {
  v1::LoadSpec message = Message();
  message.mutable_rules()->set_base_model_prefix("bert");
  for (const char* pattern : {"first", "second"}) {
    v1::Rename& rename = *message.mutable_rules()->add_renames();
    rename.set_pattern(pattern);
    rename.set_replacement("r");
  }
  message.mutable_rules()->add_ignore_missing("im");
  message.mutable_rules()->add_ignore_unexpected("iu");
  const absl::StatusOr<LoadSpec> spec = FromProto(message);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->rules.base_model_prefix, "bert");
  ASSERT_EQ(spec->rules.renames.size(), 2);
  EXPECT_EQ(spec->rules.renames[0].pattern, "first");
  EXPECT_EQ(spec->rules.renames[1].replacement, "r");
  EXPECT_THAT(spec->rules.ignore_missing, ElementsAre("im"));
  EXPECT_THAT(spec->rules.ignore_unexpected, ElementsAre("iu"));
}

TEST(ConvertSpec, AnEmptyPrefixOverridesAndAnAbsentOneDoesNot) {
  v1::LoadSpec message = Message();
  EXPECT_EQ(FromProto(message)->rules.base_model_prefix, std::nullopt);
  message.mutable_rules()->set_base_model_prefix("");
  EXPECT_EQ(FromProto(message)->rules.base_model_prefix, "");
}

TEST(ConvertSpec, TheDeviceMapArrivesSorted) {
  v1::LoadSpec message = Message();
  v1::DeviceMapSpec& map = *message.mutable_device_map();
  map.set_policy("auto");
  (*map.mutable_entries())["b"] = "cpu";
  (*map.mutable_entries())["a"] = "cuda:0";
  (*map.mutable_max_memory())["cpu"] = 2;
  (*map.mutable_max_memory())["0"] = 1;
  map.add_no_split_classes("Layer");
  map.set_offload_buffers(true);
  map.set_fallback_allocation(true);
  v1::VirtualDevice& device = *map.add_plan_for();
  device.set_device("cuda:1");
  device.set_bytes(5);
  const absl::StatusOr<LoadSpec> spec = FromProto(message);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->device_map.policy, "auto");
  EXPECT_THAT(spec->device_map.entries, ElementsAre(Pair("a", "cuda:0"), Pair("b", "cpu")));
  EXPECT_THAT(spec->device_map.max_memory, ElementsAre(Pair("0", 1), Pair("cpu", 2)));
  EXPECT_THAT(spec->no_split_classes, ElementsAre("Layer"));
  EXPECT_TRUE(spec->device_map.offload_buffers);
  EXPECT_TRUE(spec->device_map.fallback_allocation);
  ASSERT_EQ(spec->plan_for.size(), 1);
  EXPECT_EQ(spec->plan_for[0].name, "cuda:1");
  EXPECT_EQ(spec->plan_for[0].free_bytes, 5);
}

TEST(ConvertSpec, LimitsAndTheRestArrive) {
  v1::LoadSpec message = Message();
  message.mutable_limits()->set_max_missing(0);
  message.mutable_limits()->set_max_mismatched(2);
  message.set_dtype("BF16");
  message.set_if_exists(v1::IF_EXISTS_FAIL);
  message.set_name_limit(3);
  const absl::StatusOr<LoadSpec> spec = FromProto(message);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->limits.max_missing, 0);
  EXPECT_EQ(spec->limits.max_unexpected, std::nullopt);
  EXPECT_EQ(spec->limits.max_mismatched, 2);
  EXPECT_EQ(spec->dtype, DType::kBF16);
  EXPECT_EQ(spec->if_exists, IfExists::kFail);
  EXPECT_EQ(spec->name_limit, 3);
}

TEST(ConvertSpec, CopiesOnTheHostAreAnotherContentAndTheSpokenDefaultIsNot) {
  v1::LoadSpec mapped = Message();
  const std::string fingerprint = FromProto(mapped)->fingerprint;
  mapped.set_host_storage(v1::HOST_STORAGE_MAPPED);
  EXPECT_EQ(FromProto(mapped)->host_storage, HostStorage::kMapped);
  EXPECT_EQ(FromProto(mapped)->fingerprint, fingerprint);
  v1::LoadSpec copied = Message();
  copied.set_host_storage(v1::HOST_STORAGE_COPIED);
  EXPECT_EQ(FromProto(copied)->host_storage, HostStorage::kCopied);
  EXPECT_NE(FromProto(copied)->fingerprint, fingerprint);
}

TEST(ConvertSpec, WithoutANameLimitItIs100) { EXPECT_EQ(FromProto(Message())->name_limit, 100); }

TEST(ConvertSpec, AnUnknownDtypeIsRefused) {
  v1::LoadSpec message = Message();
  message.set_dtype("float16");
  const absl::Status status = FromProto(message).status();
  EXPECT_EQ(ErrorReason(status), Reason::kDtypeNotSupported);
  EXPECT_EQ(ErrorDetails(status)["dtype"], "float16");
}

}  // namespace
}  // namespace keyload
