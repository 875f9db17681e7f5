#include "client/cli/device_map_options.h"

#include "client/cli/exit_code.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/temporary_folder.h"

namespace keyload::cli {
namespace {

using testing::HasSubstr;
using testing::Pair;
using testing::UnorderedElementsAre;

class DeviceMapOptionsTest : public testing::Test {
 protected:
  absl::StatusOr<v1::DeviceMapSpec> Build() { return BuildDeviceMapSpec(options_); }
  void ExpectUsageError(const std::string& part) {
    absl::Status status = Build().status();
    EXPECT_EQ(ExitCodeFor(status), kExitUsage);
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }

  TemporaryFolder folder_;
  DeviceMapOptions options_;
};

TEST_F(DeviceMapOptionsTest, AWordIsThePolicy) {
  options_.device_map = "balanced_low_0";
  EXPECT_EQ(Build()->policy(), "balanced_low_0");
}

TEST_F(DeviceMapOptionsTest, AnAtSignNamesAKeptMap) {
  options_.device_map = "@eight-gpus";
  EXPECT_EQ(Build()->name(), "eight-gpus");
  EXPECT_EQ(Build()->policy(), "");
}

TEST_F(DeviceMapOptionsTest, AFileGivesEntriesWithNamesOrNumbersOfDevices) {
  options_.device_map = folder_.Write("map.json", R"({"": "cpu", "layers.1": 1})");
  EXPECT_THAT(Build()->entries(), UnorderedElementsAre(Pair("", "cpu"), Pair("layers.1", "1")));
}

TEST_F(DeviceMapOptionsTest, AFileThatNamesAModuleTwiceIsRefused) {
  options_.device_map = folder_.Write("map.json", R"({"a": "cpu", "a": "cuda:0"})");
  ExpectUsageError("\"a\" is named twice");
}

TEST_F(DeviceMapOptionsTest, AFileThatIsNoMapIsRefused) {
  options_.device_map = folder_.Write("map.json", R"(["cpu"])");
  ExpectUsageError("map.json");
  options_.device_map = folder_.Write("map.json", R"({"a": {"b": "cpu"}})");
  ExpectUsageError("\"a\"");
  options_.device_map = folder_.Path("absent.json");
  ExpectUsageError("absent.json");
}

TEST_F(DeviceMapOptionsTest, MaxMemoryTakesBlanksAroundNamesAndUnits) {
  options_.max_memory = " cuda = 20 GiB, cpu=64Gi ,1 =500 mib";
  EXPECT_THAT(Build()->max_memory(),
              UnorderedElementsAre(Pair("cuda", 20ull << 30), Pair("cpu", 64ull << 30), Pair("1", 500ull << 20)));
}

TEST_F(DeviceMapOptionsTest, ALimitWithAnUnknownUnitIsToldTheUnits) {
  options_.max_memory = "0=20G";
  ExpectUsageError("units are KiB, MiB, GiB, TiB");
  options_.max_memory = "0=1.5 gigs";
  ExpectUsageError("units are KiB");
  options_.max_memory = "=20GiB";
  ExpectUsageError("is not DEVICE=SIZE, as 0=20GiB");
}

TEST_F(DeviceMapOptionsTest, ALimitForTheHostAloneLeavesThePlannedGpus) {
  options_.plan_for = "2x24GiB";
  options_.max_memory = "cpu=64GiB";
  EXPECT_THAT(Build()->max_memory(),
              UnorderedElementsAre(Pair("cuda:0", 24ull << 30), Pair("cuda:1", 24ull << 30), Pair("cpu", 64ull << 30)));
  options_.max_memory = "1=10GiB,cpu=64GiB";
  EXPECT_THAT(Build()->max_memory(), UnorderedElementsAre(Pair("1", 10ull << 30), Pair("cpu", 64ull << 30)));
  options_.max_memory = "";
  EXPECT_THAT(Build()->max_memory(), testing::IsEmpty());
}

TEST_F(DeviceMapOptionsTest, MaxMemoryTakesSizesAndBytes) {
  options_.max_memory = "0=20GiB,cpu=4096";
  EXPECT_THAT(Build()->max_memory(), UnorderedElementsAre(Pair("0", 20ull << 30), Pair("cpu", 4096)));
}

TEST_F(DeviceMapOptionsTest, MaxMemoryRefusesWhatIsNoLimit) {
  for (const char* text : {"lots", "=1GiB", "0=", "0=1XB", "0=1,0=2", "0=-1"}) {
    options_.max_memory = text;
    ExpectUsageError("--max-memory");
  }
}

TEST_F(DeviceMapOptionsTest, PlanForMakesThatManyDevices) {
  options_.plan_for = "8x141GiB";
  auto spec = Build();
  ASSERT_EQ(spec->plan_for_size(), 8);
  EXPECT_EQ(spec->plan_for(7).device(), "cuda:7");
  EXPECT_EQ(spec->plan_for(7).bytes(), 141ull << 30);
}

TEST_F(DeviceMapOptionsTest, PlanForWithoutAMapSpreadsOverThoseDevices) {
  options_.plan_for = "8x141GiB";
  EXPECT_EQ(BuildDeviceMapSpec(options_)->policy(), "auto");
  options_.device_map = "cuda:3";
  EXPECT_EQ(BuildDeviceMapSpec(options_)->policy(), "cuda:3");
}

TEST_F(DeviceMapOptionsTest, PlanForRefusesWhatIsNoHardware) {
  for (const char* text : {"8", "0x1GiB", "x1GiB", "8x", "5000x1GiB", "-1x1GiB"}) {
    options_.plan_for = text;
    ExpectUsageError("--plan-for");
  }
}

}  // namespace
}  // namespace keyload::cli
