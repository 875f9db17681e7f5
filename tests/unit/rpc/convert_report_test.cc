#include "server/rpc/convert_report.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "server/base/error.h"

namespace keyload {
namespace {

template <typename Message>
Message FromText(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message));
  return message;
}

// The expected message lists every field: what the conversion forgets, differs.
void ExpectSame(const google::protobuf::Message& actual, const google::protobuf::Message& expected) {
  google::protobuf::util::MessageDifferencer differencer;
  std::string difference;
  differencer.ReportDifferencesToString(&difference);
  EXPECT_TRUE(differencer.Compare(expected, actual)) << difference;
}

LoadReport FullReport() {
  LoadReport report;
  report.load = "load-1";
  report.model = "m";
  report.generation = 2;
  report.outcome = Outcome::kFailed;
  report.error = MakeError(Reason::kIoError, "pread failed", {{"file", "f"}});
  report.expected_from = ExpectedFrom::kManifest;
  report.keys = {.expected = 3,
                 .selected = 4,
                 .not_selected = 5,
                 .loaded = 6,
                 .lazy = 7,
                 .initialized = 8,
                 .missing = 9,
                 .missing_ignored = 10,
                 .missing_tied = 11,
                 .unexpected = 12,
                 .unexpected_ignored = 13,
                 .mismatched = 14,
                 .tied_conflicts = 15};
  report.missing_keys = {"missing.1", "missing.2"};
  report.unexpected_keys = {"unexpected.1"};
  report.mismatched_keys = {{.key = "mismatched",
                             .expected_shape = {16, 17},
                             .found_shape = {18},
                             .expected_dtype = DType::kBF16,
                             .found_dtype = DType::kI8}};
  report.device_map = {{.module = "layers", .device = "cuda:0"}, {.module = "head", .device = "cpu"}};
  report.devices = {{.device = "cuda:0",
                     .uuid = "GPU-1",
                     .simulated = true,
                     .tensors = 19,
                     .tensor_bytes = 20,
                     .reserved_bytes = 21,
                     .copied_bytes = 22,
                     .copy_duration = absl::Nanoseconds(23),
                     .missing_bytes = 24}};
  report.phases = {{.name = "open", .start = absl::Nanoseconds(25), .duration = absl::Seconds(26)}};
  report.busy = {{.name = "read", .start = {}, .duration = absl::Nanoseconds(27)}};
  report.total = absl::Milliseconds(28);
  report.bytes = {.selected = 29, .read = 30, .mapped = 31, .cached = 32, .peak_scratch = 33};
  report.shards = {{.file = "a.safetensors",
                    .tensors = 34,
                    .selected_bytes = 35,
                    .read_bytes = 36,
                    .engine = "mapped",
                    .duration = absl::Nanoseconds(37)}};
  report.warnings = {"warning"};
  report.start_time = absl::FromUnixNanos(38'000'000'039);
  return report;
}

TEST(ConvertReport, NothingOfAReportIsLost) {
  ExpectSame(ToProto(FullReport()), FromText<v1::LoadReport>(R"pb(
               load: "load-1"
               model: "m"
               generation: 2
               outcome: OUTCOME_FAILED
               error {
                 code: 14
                 reason: "IO_ERROR"
                 message: "pread failed"
                 metadata { key: "file" value: "f" }
               }
               expected_from: FROM_MANIFEST
               keys {
                 expected: 3
                 selected: 4
                 not_selected: 5
                 loaded: 6
                 lazy: 7
                 initialized: 8
                 missing: 9
                 missing_ignored: 10
                 missing_tied: 11
                 unexpected: 12
                 unexpected_ignored: 13
                 mismatched: 14
                 tied_conflicts: 15
               }
               missing_keys: "missing.1"
               missing_keys: "missing.2"
               unexpected_keys: "unexpected.1"
               mismatched_keys {
                 key: "mismatched"
                 expected_shape: 16
                 expected_shape: 17
                 found_shape: 18
                 expected_dtype: "BF16"
                 found_dtype: "I8"
               }
               device_map { module: "layers" device: "cuda:0" }
               device_map { module: "head" device: "cpu" }
               devices {
                 device: "cuda:0"
                 uuid: "GPU-1"
                 simulated: true
                 tensors: 19
                 tensor_bytes: 20
                 reserved_bytes: 21
                 copied_bytes: 22
                 copy_duration { nanos: 23 }
                 missing_bytes: 24
               }
               phases {
                 name: "open"
                 start { nanos: 25 }
                 duration { seconds: 26 }
               }
               busy {
                 name: "read"
                 start {}
                 duration { nanos: 27 }
               }
               total_duration { nanos: 28000000 }
               bytes { selected: 29 read: 30 mapped: 31 cached: 32 peak_scratch: 33 }
               shards {
                 file: "a.safetensors"
                 tensors: 34
                 selected_bytes: 35
                 read_bytes: 36
                 engine: "mapped"
                 duration { nanos: 37 }
               }
               warnings: "warning"
               start_time { seconds: 38 nanos: 39 }
             )pb"));
}

TEST(ConvertReport, AReportWithoutErrorHasNone) {
  LoadReport report = FullReport();
  report.error = absl::OkStatus();
  EXPECT_FALSE(ToProto(report).has_error());
}

TEST(ConvertReport, EveryOutcomeHasItsOwn) {
  const auto convert = [](Outcome outcome) {
    LoadReport report;
    report.outcome = outcome;
    return ToProto(report).outcome();
  };
  EXPECT_EQ(convert(Outcome::kPlanned), v1::LoadReport::OUTCOME_PLANNED);
  EXPECT_EQ(convert(Outcome::kComplete), v1::LoadReport::OUTCOME_COMPLETE);
  EXPECT_EQ(convert(Outcome::kIncomplete), v1::LoadReport::OUTCOME_INCOMPLETE);
  EXPECT_EQ(convert(Outcome::kRejected), v1::LoadReport::OUTCOME_REJECTED);
  EXPECT_EQ(convert(Outcome::kCancelled), v1::LoadReport::OUTCOME_CANCELLED);
  EXPECT_EQ(convert(Outcome::kFailed), v1::LoadReport::OUTCOME_FAILED);
}

TEST(ConvertReport, AFileNameThatIsNotUtf8IsReplaced) {
  LoadReport report = FullReport();
  report.shards[0].file = "\xff.safetensors";
  report.warnings = {"\xff"};
  EXPECT_EQ(ToProto(report).shards(0).file(), "\ufffd.safetensors");
  EXPECT_EQ(ToProto(report).warnings(0), "\ufffd");
}

TEST(ConvertReport, NothingOfTheProgressIsLost) {
  ExpectSame(ToProto(LoadProgress{.phase = "transfer",
                                  .bytes_done = 1,
                                  .bytes_total = 2,
                                  .tensors_done = 3,
                                  .tensors_total = 4,
                                  .queue_position = 5}),
             FromText<v1::LoadProgress>(R"pb(phase: "transfer"
                                             bytes_done: 1
                                             bytes_total: 2
                                             tensors_done: 3
                                             tensors_total: 4
                                             queue_position: 5)pb"));
}

TEST(ConvertReport, NothingOfAKeyIsLost) {
  ExpectSame(ToProto(ListedKey{.key = "k",
                               .state = ListedState::kMismatched,
                               .dtype = DType::kF16,
                               .shape = {2, 3},
                               .device = "cuda:0",
                               .shard = "a.safetensors",
                               .file_offset = 4,
                               .bytes = 12,
                               .tied_to = "t",
                               .index = 5}),
             FromText<v1::KeyInfo>(R"pb(key: "k"
                                        state: KEY_STATE_MISMATCHED
                                        dtype: "F16"
                                        shape: 2
                                        shape: 3
                                        device: "cuda:0"
                                        shard: "a.safetensors"
                                        file_offset: 4
                                        bytes: 12
                                        tied_to: "t")pb"));
}

TEST(ConvertReport, EveryKeyStateHasItsOwn) {
  EXPECT_EQ(ToProto(ListedState::kResident), v1::KEY_STATE_RESIDENT);
  EXPECT_EQ(ToProto(ListedState::kLazy), v1::KEY_STATE_LAZY);
  EXPECT_EQ(ToProto(ListedState::kMissing), v1::KEY_STATE_MISSING);
  EXPECT_EQ(ToProto(ListedState::kUnexpected), v1::KEY_STATE_UNEXPECTED);
  EXPECT_EQ(ToProto(ListedState::kMismatched), v1::KEY_STATE_MISMATCHED);
  EXPECT_EQ(ToProto(ListedState::kIgnored), v1::KEY_STATE_IGNORED);
  EXPECT_EQ(ToProto(ListedState::kNotSelected), v1::KEY_STATE_NOT_SELECTED);
}

TEST(ConvertReport, AModelThatIsLoadingHasOnlyNameStateAndGeneration) {
  ExpectSame(
      ToProto(ModelInfo{.name = "m", .state = ModelState::kLoading, .generation = 7, .model = nullptr, .last_use = {}},
              true),
      FromText<v1::Model>(R"pb(name: "m" state: MODEL_STATE_LOADING generation: 7)pb"));
}

TEST(ConvertReport, ALoadedModelShowsItsReport) {
  auto manifest = std::make_shared<Manifest>();
  manifest->architecture = "Net";
  auto keys = std::make_shared<KeyReport>();
  keys->manifest = manifest;
  ResidentModel::Content content;
  content.name = "m";
  content.source_path = "/models/m";
  content.keys = keys;
  content.plan = std::make_shared<LoadPlan>();
  content.residency = std::make_shared<Residency>(Residency::Content{.plan = content.plan});
  content.report = FullReport();
  content.load_time = absl::FromUnixSeconds(40);
  const v1::Model model = ToProto(ModelInfo{.name = "m",
                                            .state = ModelState::kPartial,
                                            .generation = 2,
                                            .model = std::make_shared<ResidentModel>(std::move(content)),
                                            .last_use = absl::FromUnixSeconds(41)},
                                  true);
  v1::Model expected = FromText<v1::Model>(R"pb(
    name: "m"
    state: MODEL_STATE_PARTIAL
    generation: 2
    source { path: "/models/m" }
    architecture: "Net"
    load_time { seconds: 40 }
    last_use_time { seconds: 41 }
    last_load: "load-1"
  )pb");
  const v1::LoadReport report = ToProto(FullReport());
  *expected.mutable_keys() = report.keys();
  *expected.mutable_device_map() = report.device_map();
  expected.mutable_keys()->set_loaded(0);  // what is resident now, not what the load left
  expected.mutable_keys()->set_lazy(0);
  *expected.mutable_devices() = report.devices();
  ExpectSame(model, expected);
}

TEST(ConvertReport, ALargeReportIsCutAndSaysByHowMuch) {
  LoadReport report;
  for (int i = 0; i < 10'000; ++i) report.missing_keys.push_back(std::string(1000, 'k') + std::to_string(i));
  for (int i = 0; i < 20'000; ++i) report.device_map.push_back({.module = std::string(40, 'm'), .device = "cuda:0"});
  const v1::LoadReport message = ToProto(report);
  EXPECT_LE(message.ByteSizeLong(), kMaxReportBytes);
  EXPECT_GT(message.missing_keys_left_out(), 0);
  EXPECT_EQ(message.missing_keys_size() + message.missing_keys_left_out(), 10'000);
  EXPECT_EQ(message.missing_keys(0), report.missing_keys[0]);
  EXPECT_EQ(message.device_map_size(), 20'000) << "what fits is whole";
  EXPECT_EQ(message.device_map_left_out(), 0);
}

TEST(ConvertReport, AReportCutToNothingHasItsCountsOnly) {
  v1::LoadReport message = ToProto(FullReport());
  CutReport(message, 0);
  EXPECT_EQ(message.missing_keys_size() + message.device_map_size() + message.shards_size(), 0);
  EXPECT_EQ(message.missing_keys_left_out(), 2);
  EXPECT_EQ(message.device_map_left_out(), 2);
  EXPECT_EQ(message.keys().missing(), 9);
}

}  // namespace
}  // namespace keyload
