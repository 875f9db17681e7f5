#include "client/cli/plan_text.h"

#include "client/cli/plan_limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace keyload::cli {
namespace {

using testing::HasSubstr;

v1::LoadReport Report(const std::vector<std::pair<std::string, std::string>>& map,
                      const std::vector<std::pair<std::string, uint64_t>>& placed) {
  v1::LoadReport report;
  for (const auto& [module, device] : map) {
    v1::MapEntry& entry = *report.add_device_map();
    entry.set_module(module);
    entry.set_device(device);
  }
  for (const auto& [device, bytes] : placed) {
    v1::DeviceUse& use = *report.add_devices();
    use.set_device(device);
    use.set_tensor_bytes(bytes);
    use.set_reserved_bytes(bytes);
  }
  return report;
}

std::string Text(const v1::LoadReport& report, const DeviceLimits& limits) {
  return PlanMapText(PlannedDevices(report, limits), limits);
}

TEST(PlanMapText, JoinsModulesThatCountUp) {
  const v1::LoadReport report =
      Report({{"embed", "cuda:0"}, {"l.0", "cuda:0"}, {"l.1", "cuda:0"}, {"l.3", "cuda:0"}, {"m.4", "cuda:0"}},
             {{"cuda:0", 1}});
  EXPECT_THAT(Text(report, {}), HasSubstr("  embed, l.0-1, l.3, m.4\n"));
}

TEST(PlanMapText, DevicesAreInTheOrderOfFillingAndIdleOnesAreShown) {
  const v1::LoadReport report = Report({{"a", "cuda:10"}, {"b", "disk"}}, {{"cuda:10", 5}, {"disk", 7}});
  EXPECT_EQ(Text(report, {{"cuda:10", 10}, {"cuda:2", 10}, {"cpu", 10}}),
            "\n"
            "cuda:2   [........................................] 0 B of 10 B, 10 B free, 0 tensors\n"
            "cuda:10  [####################....................] 5 B of 10 B, 5 B free, 0 tensors\n"
            "         a\n"
            "cpu      [........................................] 0 B of 10 B, 10 B free, 0 tensors\n"
            "disk     7 B, 0 tensors\n"
            "         b\n");
}

TEST(PlanMapText, MoreThanTheLimitIsSaid) {
  EXPECT_THAT(Text(Report({{"", "cuda:0"}}, {{"cuda:0", 15}}), {{"cuda:0", 10}}),
              HasSubstr("[########################################] 15 B of 10 B, 5 B too much, 0 tensors\n"
                        "        everything\n"));
}

// A policy that needs 100 bytes on each of the GPUs.
absl::StatusOr<v1::LoadReport> NeedsHundred(const v1::LoadSpec& spec) {
  for (const auto& [device, bytes] : spec.device_map().max_memory()) {
    if (bytes < 100) return Report({{"", "disk"}}, {{"disk", 200}});
  }
  return Report({{"", "cuda:0"}}, {{"cuda:0", 200}});
}

TEST(PlanText, NamesTheLeastLimitThatWouldDo) {
  const PlanSpace space = {.limits = {{"cuda:0", 50}, {"cuda:1", 70}}, .chooses = true};
  EXPECT_THAT(PlanText({}, Report({{"", "disk"}}, {{"disk", 200}}), space, NeedsHundred),
              HasSubstr("\ndoes not fit on the GPUs: everything on disk (200 B); --max-memory cuda:0=100,cuda:1=100 "
                        "would do\n"));
}

TEST(PlanText, SaysNothingAboutAMapThatPutsThingsBesideTheGpus) {
  const PlanSpace space = {.limits = {{"cuda:0", 50}}, .chooses = false};
  EXPECT_EQ(PlanText({}, Report({{"", "disk"}}, {{"disk", 200}}), space, NeedsHundred),
            "\ndisk  200 B, 0 tensors\n      everything\n");
}

}  // namespace
}  // namespace keyload::cli
