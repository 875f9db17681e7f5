#include "server/rpc/state_codec.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "server/base/error.h"
#include "server/rpc/convert_manifest.h"
#include "server/rpc/convert_report.h"
#include "server/rpc/convert_spec.h"
#include "server/rpc/parse_report.h"

namespace keyload {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::util::MessageDifferencer;

// Sets every field of `message`, also those that are added to the contract later: strings to `text`, enums to their
// last value, numbers to 1.
void SetEveryField(Message& message, const std::string& text) {
  const google::protobuf::Reflection& access = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* const field = message.GetDescriptor()->field(i);
    const auto set = [&](auto one, auto many, auto value) {
      field->is_repeated() ? (access.*many)(&message, field, value) : (access.*one)(&message, field, value);
    };
    using R = google::protobuf::Reflection;
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        if (field->is_map()) continue;
        SetEveryField(
            field->is_repeated() ? *access.AddMessage(&message, field) : *access.MutableMessage(&message, field), text);
        break;
      case FieldDescriptor::CPPTYPE_STRING:
        set(&R::SetString, &R::AddString, field->name() == "dtype" ? std::string("BF16") : text);
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        set(&R::SetEnumValue, &R::AddEnumValue,
            field->enum_type()->value(field->enum_type()->value_count() - 1)->number());
        break;
      case FieldDescriptor::CPPTYPE_UINT64:
        set(&R::SetUInt64, &R::AddUInt64, uint64_t{1});
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        set(&R::SetInt64, &R::AddInt64, int64_t{1});
        break;
      case FieldDescriptor::CPPTYPE_FLOAT:
        set(&R::SetFloat, &R::AddFloat, 1.0F);
        break;
      default:
        FAIL() << field->full_name() << " has a type that this test does not set";
    }
  }
}

void ExpectSame(const Message& actual, const Message& expected) {
  MessageDifferencer differencer;
  std::string difference;
  differencer.ReportDifferencesToString(&difference);
  EXPECT_TRUE(differencer.Compare(expected, actual)) << difference;
}

LoadSpec SpecOf(const v1::LoadSpec& message) {
  const absl::StatusOr<LoadSpec> spec = FromProto(message);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.value_or(LoadSpec());
}

v1::LoadSpec Request() {
  v1::LoadSpec message;
  message.set_model("m");
  message.set_request_id("id");
  message.set_detach(true);
  message.mutable_source()->set_path("/models/m");
  message.mutable_select()->add_include("a.*");
  message.mutable_device_map()->set_policy("cpu");
  message.mutable_limits()->set_max_missing(0);
  return message;
}

TEST(StateCodec, AManifestIsWrittenWithEveryFieldThatTheContractHas) {
  v1::ModelManifest message;
  SetEveryField(message, "t");
  message.clear_initializer_range();  // only said, never used
  *message.add_tensors() = message.tensors(0);
  message.mutable_tensors(1)->set_name("target");
  message.mutable_tied_groups(0)->set_targets(0, "target");
  const auto manifest = FromProto(message);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  ExpectSame(ToProto(**manifest), message);
}

TEST(StateCodec, AModelComesBackWithItsRequestButNotItsIdentity) {
  const LoadSpec spec = SpecOf(Request());
  const absl::StatusOr<KeptModel> model = ProtoStateCodec().ReadModel(ProtoStateCodec().WriteModel(spec, 7, false));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->generation, 7u);
  ASSERT_EQ(model->requests.size(), 1u);
  const LoadSpec& again = model->requests[0];
  EXPECT_EQ(again.model, "m");
  EXPECT_EQ(again.source.path, "/models/m");
  EXPECT_THAT(again.select.include, testing::ElementsAre("a.*"));
  EXPECT_EQ(again.limits.max_missing, 0u);
  EXPECT_EQ(again.fingerprint, spec.fingerprint);
  EXPECT_EQ(again.request_id, "");
  EXPECT_FALSE(again.detach);
}

TEST(StateCodec, RecordsOfAModelAddUp) {
  v1::LoadSpec wider = Request();
  wider.mutable_select()->set_include(0, "b.*");
  const absl::StatusOr<KeptModel> model = ProtoStateCodec().ReadModel(
      ProtoStateCodec().WriteModel(SpecOf(Request()), 7, false) + ProtoStateCodec().WriteModel(SpecOf(wider), 9, true));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->generation, 9u);
  ASSERT_EQ(model->requests.size(), 2u);
  EXPECT_THAT(model->requests[1].select.include, testing::ElementsAre("b.*"));
}

TEST(StateCodec, DocumentsAreWrittenOut) {
  DocumentStore documents(DocumentStore::Options(), ParseManifest);
  const auto manifest = documents.AddManifest(R"({"tensors": [{"name": "a", "dtype": "F32", "shape": [2]}]})");
  const auto keys = documents.AddKeyList("x\ny\n");
  ASSERT_TRUE(manifest.ok() && keys.ok());
  v1::LoadSpec message = Request();
  message.mutable_expected()->set_manifest_digest(manifest->digest);
  message.mutable_select()->set_key_list_digest(keys->digest);
  const LoadSpec asked = SpecOf(message);
  EXPECT_EQ(
      ErrorReason(
          WithDocuments(asked, *std::make_unique<DocumentStore>(DocumentStore::Options(), ParseManifest)).status()),
      Reason::kDocumentNotFound);
  const absl::StatusOr<LoadSpec> spec = WithDocuments(asked, documents);
  ASSERT_TRUE(spec.ok()) << spec.status();
  const absl::StatusOr<KeptModel> model = ProtoStateCodec().ReadModel(ProtoStateCodec().WriteModel(*spec, 1, false) +
                                                                      ProtoStateCodec().WriteModel(*spec, 2, true));
  ASSERT_TRUE(model.ok()) << model.status();
  const LoadSpec& again = model->requests.at(0);
  ASSERT_NE(again.expected.manifest, nullptr);
  EXPECT_EQ(again.expected.manifest->tensors.at(0).name, "a");
  EXPECT_EQ(again.expected.manifest_digest, "");
  EXPECT_THAT(again.select.keys, testing::ElementsAre("x", "y"));
  EXPECT_EQ(again.key_list_digest, "");
  EXPECT_EQ(again.fingerprint, asked.fingerprint) << "of the request as it came";
  EXPECT_EQ(model->requests.at(1).expected.manifest, again.expected.manifest) << "written once";
}

LoadReport Report() {
  v1::LoadReport message;
  message.set_outcome(v1::LoadReport::OUTCOME_FAILED);
  message.set_expected_from(v1::ExpectedKeys::FROM_MANIFEST);
  message.set_load("load-000003");
  message.set_model("m");
  message.set_request_id("first");
  message.set_generation(5);
  v1::LoadError& error = *message.mutable_error();
  error.set_code(14);
  error.set_reason("IO_ERROR");
  error.set_message("pread failed");
  (*error.mutable_metadata())["file"] = "f";
  for (Message* part : std::initializer_list<Message*>{message.mutable_keys(), message.add_device_map(),
                                                       message.add_devices(), message.add_phases(), message.add_busy(),
                                                       message.mutable_bytes(), message.add_shards()}) {
    const google::protobuf::Reflection& access = *part->GetReflection();
    for (int i = 0; i < part->GetDescriptor()->field_count(); ++i) {
      const FieldDescriptor* const field = part->GetDescriptor()->field(i);
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_UINT64) access.SetUInt64(part, field, 100 + i);
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) access.SetString(part, field, field->name());
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL) access.SetBool(part, field, true);
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        static_cast<google::protobuf::Duration*>(access.MutableMessage(part, field))->set_nanos(200 + i);
      }
    }
  }
  message.add_missing_keys("missing");
  message.add_unexpected_keys("unexpected");
  v1::MismatchedKey& key = *message.add_mismatched_keys();
  key.set_key("k");
  key.add_expected_shape(1);
  key.add_found_shape(2);
  key.set_expected_dtype("F32");
  key.set_found_dtype("I8");
  message.mutable_total_duration()->set_seconds(6);
  message.add_warnings("warning");
  message.mutable_start_time()->set_seconds(1'700'000'000);
  const absl::StatusOr<LoadReport> report = FromProto(message);
  EXPECT_TRUE(report.ok()) << report.status();
  ExpectSame(ToProto(*report), message);
  return *report;
}

TEST(StateCodec, ALoadThatEndedComesBackWithAllOfItsReport) {
  const KeptLoad load = {.identity = {.load = "load-000003", .model = "m", .digest = "d"},
                         .request_ids = {"first", "second"},
                         .result = Report()};
  const absl::StatusOr<KeptLoad> again = ProtoStateCodec().ReadLoad(ProtoStateCodec().WriteLoad(load));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->identity.load, "load-000003");
  EXPECT_EQ(again->identity.model, "m");
  EXPECT_EQ(again->identity.digest, "d");
  EXPECT_THAT(again->request_ids, testing::ElementsAre("first", "second"));
  ASSERT_TRUE(again->result.ok());
  ExpectSame(ToProto(*again->result), ToProto(*load.result));
  EXPECT_EQ(ErrorReason(again->result->error), Reason::kIoError);
  EXPECT_EQ(ErrorDetails(again->result->error).at("file"), "f");
}

TEST(StateCodec, ALoadThatNeverGotAPlanComesBackWithItsError) {
  const KeptLoad load = {.identity = {.load = "load-000004", .model = "m"},
                         .request_ids = {},
                         .result = MakeError(Reason::kCheckpointNotFound, "not there", {{"path", "/x"}})};
  const absl::StatusOr<KeptLoad> again = ProtoStateCodec().ReadLoad(ProtoStateCodec().WriteLoad(load));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->result.status(), load.result.status());
  EXPECT_EQ(ErrorReason(again->result.status()), Reason::kCheckpointNotFound);
}

TEST(StateCodec, AMapComesBackAsItWas) {
  const NamedDeviceMap map = {.name = "n",
                              .spec = {.policy = "auto", .max_memory = {{"cuda:0", 5}}, .offload_buffers = true},
                              .no_split_classes = {"Block"},
                              .etag = "1-2"};
  const absl::StatusOr<NamedDeviceMap> again = ProtoStateCodec().ReadMap(ProtoStateCodec().WriteMap(map));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->name, "n");
  EXPECT_EQ(again->etag, "1-2");
  EXPECT_EQ(again->spec.policy, "auto");
  EXPECT_EQ(again->spec.max_memory, map.spec.max_memory);
  EXPECT_TRUE(again->spec.offload_buffers);
  EXPECT_EQ(again->no_split_classes, map.no_split_classes);
}

TEST(StateCodec, WhatIsNoRecordIsAnError) {
  EXPECT_FALSE(ProtoStateCodec().ReadModel("\xff\xff").ok());
  EXPECT_FALSE(ProtoStateCodec().ReadModel("").ok()) << "a model without a request";
  EXPECT_FALSE(ProtoStateCodec().ReadLoad("\xff\xff").ok());
  EXPECT_FALSE(ProtoStateCodec().ReadMap("\xff\xff").ok());
  v1::LoadReport unknown;
  unknown.set_outcome(static_cast<v1::LoadReport::Outcome>(99));
  EXPECT_FALSE(FromProto(unknown).ok());
}

}  // namespace
}  // namespace keyload
