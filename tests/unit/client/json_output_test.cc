#include "client/cli/json_output.h"

#include "gtest/gtest.h"
#include "keyload/client.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {
namespace {

TEST(JsonOutput, NamesAreLowerCamelCaseAndEnumsBareWords) {
  v1::LoadReport report;
  report.set_outcome(v1::LoadReport::OUTCOME_COMPLETE);
  report.set_expected_from(v1::ExpectedKeys::FROM_CONFIG);
  Json json = ToJson(report);
  EXPECT_EQ(json["outcome"], "COMPLETE");
  EXPECT_EQ(json["expectedFrom"], "CONFIG");
  v1::Model model;
  model.set_state(v1::MODEL_STATE_RESIDENT);
  EXPECT_EQ(ToJson(model)["state"], "RESIDENT");
}

TEST(JsonOutput, LargeIntegersAreNumbers) {
  v1::Bytes bytes;
  bytes.set_selected(18446744073709551615u);
  EXPECT_EQ(ToJson(bytes).dump(),
            R"({"selected":18446744073709551615,"read":0,"mapped":0,"cached":0,"peakScratch":0})");
}

TEST(JsonOutput, DurationsAreSecondsUnderTheirOwnNames) {
  v1::LoadReport report;
  report.mutable_total_duration()->set_seconds(2);
  report.mutable_total_duration()->set_nanos(500'000'000);
  v1::Phase& phase = *report.add_phases();
  phase.set_name("open");
  phase.mutable_start()->set_nanos(250'000'000);
  phase.mutable_duration()->set_seconds(1);
  report.add_devices();
  Json json = ToJson(report);
  EXPECT_EQ(json["totalSeconds"], 2.5);
  EXPECT_EQ(json["phases"].dump(), R"([{"name":"open","startSeconds":0.25,"seconds":1.0}])");
  EXPECT_EQ(json["devices"][0]["copySeconds"], 0.0);
  EXPECT_EQ(ToJson(v1::RenewLeaseResponse()).dump(), R"({"ttlSeconds":0.0})");
}

TEST(JsonOutput, TimesAreRfc3339) {
  v1::LoadReport report;
  report.mutable_start_time()->set_seconds(1'700'000'000);
  report.mutable_start_time()->set_nanos(120'000'000);
  EXPECT_EQ(ToJson(report)["startTime"], "2023-11-14T22:13:20.12Z");
}

TEST(JsonOutput, ZerosAndEmptyListsArePrintedAndUnsetMessagesAreNull) {
  Json json = ToJson(v1::LoadReport());
  EXPECT_EQ(json["generation"], 0);
  EXPECT_EQ(json["missingKeys"], Json::array());
  EXPECT_EQ(json["deviceMap"], Json::object());
  EXPECT_TRUE(json["error"].is_null());
  EXPECT_TRUE(json["startTime"].is_null());
}

TEST(JsonOutput, UnsetOptionalFieldsAreNullAndSetZerosAreZero) {
  v1::Limits limits;
  limits.set_max_missing(0);
  EXPECT_EQ(ToJson(limits).dump(), R"({"maxMissing":0,"maxUnexpected":null,"maxMismatched":null})");
}

TEST(JsonOutput, TheDeviceMapIsOneObjectInRegistrationOrder) {
  v1::LoadReport report;
  for (const char* module : {"z", "a", "m"}) {
    v1::MapEntry& entry = *report.add_device_map();
    entry.set_module(module);
    entry.set_device("cpu");
  }
  EXPECT_EQ(ToJson(report)["deviceMap"].dump(), R"({"z":"cpu","a":"cpu","m":"cpu"})");
}

TEST(JsonOutput, ErrorsCarryTheCodeTheReasonAndTheMetadata) {
  absl::Status status = WithErrorInfo(absl::NotFoundError("no model m"),
                                      {.reason = "MODEL_NOT_FOUND", .domain = "keyload", .metadata = {{"model", "m"}}});
  EXPECT_EQ(ErrorToJson(status).dump(), R"({"error":{"code":"NOT_FOUND","reason":"MODEL_NOT_FOUND",)"
                                        R"("message":"no model m","metadata":{"model":"m"}}})");
}

TEST(JsonOutput, InvalidUtf8DoesNotBreakTheDocument) {
  EXPECT_FALSE(Json::parse(Dump(ErrorToJson(absl::InternalError("\xff")))).is_null());
}

}  // namespace
}  // namespace keyload::cli
