#include "server/checkpoint/weight_files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/time/clock.h"
#include "server/base/error.h"
#include "tests/support/checkpoint_builder.h"

namespace keyload {
namespace {

using ::testing::HasSubstr;

class WeightFilesTest : public ::testing::Test {
 protected:
  WeightFilesTest() : roots_(ModelRoots::Create({dir_.path()}).value()), directory_(roots_.Open(dir_.path()).value()) {}

  absl::StatusOr<WeightFile> Find(const RequestContext& context = {}, const std::string& weights = "",
                                  HeaderCharge* charge = nullptr) {
    return FindWeights(roots_, directory_, weights, false, context, charge);
  }
  // Makes empty files and finds the weights among them.
  std::string FindAmong(const std::vector<std::string>& names) {
    for (const std::string& name : names) WriteFile(dir_.File(name), "");
    const absl::StatusOr<WeightFile> file = Find();
    for (const std::string& name : names) std::filesystem::remove(dir_.File(name));
    return file.ok() ? file->name : std::string(file.status().message());
  }

  TempDir dir_;
  const ModelRoots roots_;
  const OpenedPath directory_;
};

TEST_F(WeightFilesTest, ListingIsCountedAsReadingHeadersIs) {
  for (int i = 0; i < 100; ++i) WriteFile(dir_.File(std::to_string(i) + std::string(200, 'x') + ".safetensors"), "");
  HeaderMemory enough(1 << 20), little(128 << 10);  // half of it for one
  HeaderCharge charge(&enough), refused(&little);
  EXPECT_EQ(ErrorReason(Find({}, "", &charge).status()), Reason::kCheckpointAmbiguous);
  EXPECT_GT(enough.used(), 100 * 200u);
  EXPECT_EQ(ErrorReason(Find({}, "", &refused).status()), Reason::kMemoryExhausted);
}

TEST_F(WeightFilesTest, VariantsOfOneFileAreNoFurtherSets) {
  EXPECT_EQ(FindAmong({"x.safetensors", "x.fp16.safetensors"}), "x.safetensors");
  EXPECT_EQ(FindAmong({"x.safetensors", "x.a.safetensors", "x.a.b.safetensors", "x.b.safetensors"}), "x.safetensors");
  EXPECT_EQ(FindAmong({"x.a.safetensors", "x.a.b.safetensors", "x.a.b.c.safetensors"}), "x.a.safetensors");
  EXPECT_EQ(FindAmong({"x.safetensors.safetensors", "x.safetensors"}), "x.safetensors");
  EXPECT_EQ(FindAmong({"x.safetensors.index.json", "x.fp16.safetensors.index.json"}), "x.safetensors.index.json");
}

TEST_F(WeightFilesTest, FilesThatOnlyLookAlikeAreSetsOfTheirOwn) {
  EXPECT_THAT(FindAmong({"x.safetensors", "xy.safetensors"}), HasSubstr("2 sets"));
  EXPECT_THAT(FindAmong({"x.safetensors", "x-1.safetensors", "x.a.safetensors"}), HasSubstr("2 sets"));
  EXPECT_THAT(FindAmong({"a.safetensors", "a.b.safetensors", "a-c.safetensors", "b.a.safetensors"}),
              HasSubstr("3 sets of weights (a-c.safetensors, a.safetensors, b.a.safetensors)"));
}

TEST_F(WeightFilesTest, ACancelledRequestEndsInTheMiddleOfTheEntries) {
  for (int i = 0; i < 200; ++i) WriteFile(dir_.File(std::to_string(i) + ".safetensors"), "");
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ErrorReason(Find({.stop = stop.get_token()}).status()), Reason::kLoadCancelled);
  EXPECT_THAT(std::string(Find().status().message()), HasSubstr("200 sets"));
}

// With a comparison of each name with every other one this takes minutes, and the deadline ends it.
TEST_F(WeightFilesTest, FiftyThousandNamesTakeNoLongerThanTheyTakeToList) {
  for (int i = 0; i < 50'000; ++i) {
    const int fd = ::open(dir_.File(std::to_string(i) + ".safetensors").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    ASSERT_GE(fd, 0);
    ::close(fd);
  }
  EXPECT_THAT(std::string(Find({.deadline = Deadline::After(absl::Seconds(60))}).status().message()),
              HasSubstr("50000 sets"));
}

}  // namespace
}  // namespace keyload
