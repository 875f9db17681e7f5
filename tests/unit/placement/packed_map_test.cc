#include "server/placement/packed_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <set>

#include "server/base/strings.h"
#include "server/placement/contiguous_parts.h"
#include "tests/unit/placement/model_builder.h"

namespace keyload {
namespace {

using ::testing::ElementsAre;

std::string Packed(const ModelBuilder& builder, const std::string& limits) {
  return Map(builder, {.limits = limits, .policy = "packed"});
}

// Layers "l.0", "l.1", ... of class Block, of these sizes in bytes.
ModelBuilder Blocks(const std::vector<uint64_t>& bytes) {
  ModelBuilder builder;
  builder.Module("l").NoSplit("Block");
  for (size_t i = 0; i < bytes.size(); ++i) {
    const std::string name = StrCat("l.", i);
    builder.Module(name, "Block").Module(name + ".a").Module(name + ".b");
    builder.Param(name + ".a.w", 1).Param(name + ".b.w", 1).Resize(name + ".a.w", bytes[i] / 2);
    builder.Resize(name + ".b.w", bytes[i] - bytes[i] / 2);
  }
  return builder;
}

TEST(PackedMap, TheFullestDeviceIsAsEmptyAsPossible) {
  EXPECT_EQ(Packed(Blocks({10, 10, 10, 10}), "0=100 1=100"), "l.0:0 l.1:0 l.2:1 l.3:1");
  EXPECT_EQ(Packed(Blocks({10, 10, 10, 50}), "0=100 1=100"), "l.0:0 l.1:0 l.2:0 l.3:1");
  EXPECT_EQ(Packed(Blocks({50, 10, 10, 10}), "0=100 1=100"), "l.0:0 l.1:1 l.2:1 l.3:1");
}

TEST(PackedMap, FillIsASharePerDeviceNotBytes) {
  EXPECT_EQ(Packed(Blocks({10, 10, 10, 10}), "0=300 1=100"), "l.0:0 l.1:0 l.2:0 l.3:1");
}

TEST(PackedMap, SplitsWhereTheTreeAllowsIt) {
  EXPECT_EQ(Packed(ModelBuilder().M(), "0=200 1=200"), "linear1:0 batchnorm:0 linear2:1");
  EXPECT_EQ(Packed(ModelBuilder().ThreeM(), "0=400 1=400"), "0:0 1.linear1:0 1.batchnorm:0 1.linear2:1 2:1");
  EXPECT_EQ(Packed(ModelBuilder().ThreeM().NoSplit("ModelForTest"), "0=500 1=500"), "0:0 1:0 2:1");
}

TEST(PackedMap, TiedPartsGoTogetherAndCountOnce) {
  EXPECT_EQ(
      Packed(ModelBuilder().LM().Tie({"embed.weight", "lm_head.weight"}), "0=1000 1=1000"),
      "embed:0 layers.0:0 layers.1:0 layers.2:0 layers.3:0 layers.4:0 layers.5:1 layers.6:1 layers.7:1 layers.8:1 "
      "layers.9:1 layers.10:1 layers.11:1 lm_head:0");
}

TEST(PackedMap, TiesThatShareAPartAreOnePart) {
  ModelBuilder model = Blocks({10, 10, 10, 10});
  model.Resize("l.1.a.w", 0).Resize("l.2.a.w", 0).Resize("l.3.b.w", 0);
  model.Tie({"l.2.a.w", "l.1.a.w"}).Tie({"l.2.b.w", "l.3.b.w"});
  EXPECT_EQ(Packed(model, "0=100 1=100"), "l.0:0 l.1:1 l.2:1 l.3:1");
}

TEST(PackedMap, DirectBuffersOfASplitModuleGoWithItsFirstPart) {
  ModelBuilder model;
  model.Module("block").Buffer("block.buf", 6).Linear("block.lin", 4, 4).Linear("out", 4, 4);
  EXPECT_EQ(Packed(model, "0=104 1=80"), "block:0 out:1");
  EXPECT_EQ(Packed(model, "0=103 1=104"), "block:1 out:disk");
}

TEST(PackedMap, OverflowGoesToCpuThenToDisk) {
  const ModelBuilder model = Blocks({10, 10, 10, 10, 10});
  EXPECT_EQ(Packed(model, "0=20 1=10 cpu=10"), "l.0:0 l.1:0 l.2:1 l.3:cpu l.4:disk");
  EXPECT_EQ(Packed(model, "0=20 1=10"), "l.0:0 l.1:0 l.2:1 l.3:disk l.4:disk");
  EXPECT_EQ(Packed(model, "0=0 1=9 cpu=9"), "/:disk");
}

TEST(PackedMap, WhatFitsOnNoGpuAloneDoesNotKeepTheRestOff) {
  EXPECT_EQ(Packed(Blocks({90, 10, 10}), "0=20 1=20 cpu=1000"), "l.0:cpu l.1:0 l.2:1");
}

TEST(PackedMap, ADeviceWithoutMemoryGetsNothing) { EXPECT_EQ(Packed(Blocks({0, 10, 0}), "0=0 1=10 2=0"), "/:1"); }

TEST(PackedMap, BuffersOfAFlatModelArePartsOfTheirOwn) {
  ModelBuilder model;
  model.Buffer("a", 10).Buffer("b", 10);
  EXPECT_EQ(Packed(model, "0=40 1=40"), "a:0 b:1");
}

TEST(ContiguousParts, TheMinimumIsExactWhereFillsDifferByLittle) {
  const uint64_t limit = (uint64_t{1} << 60) - 1;
  EXPECT_THAT(CutIntoRanges({1, 2, 1}, {limit - 1, limit}), ElementsAre(1, 3));  // 3 / limit is below 3 / (limit - 1)
  EXPECT_THAT(CutIntoRanges({1, 2, 1}, {limit, limit - 1}), ElementsAre(2, 3));
}

TEST(ContiguousParts, NoPartsOrNoDevices) {
  EXPECT_THAT(CutIntoRanges({}, {5, 5}), ElementsAre(0, 0));
  EXPECT_THAT(CutIntoRanges({5}, {}), ElementsAre());
  EXPECT_THAT(CutIntoRanges({0, 0}, {5, 5}), ElementsAre(2, 2));
}

using Ends = std::vector<uint32_t>;

// The largest fill of a cut, as a double: sizes are small here. Nothing if a device holds more than its limit.
std::optional<double> FillOf(const std::vector<uint64_t>& bytes, const std::vector<uint64_t>& limits,
                             const Ends& ends) {
  double largest = 0;
  uint32_t next = 0;
  for (size_t d = 0; d < limits.size(); ++d) {
    uint64_t sum = 0;
    for (; next < ends[d]; ++next) sum += bytes[next];
    if (sum > limits[d]) return std::nullopt;
    largest = std::max(largest, static_cast<double>(sum) / static_cast<double>(limits[d]));
  }
  return largest;
}

// By trying every cut: how many parts fit, and the least largest fill of those cuts.
std::pair<uint32_t, double> BruteForce(const std::vector<uint64_t>& bytes, const std::vector<uint64_t>& limits) {
  std::pair<uint32_t, double> best = {0, 0};
  Ends ends(limits.size(), 0);
  const std::function<void(size_t)> cut = [&](size_t device) {
    if (device == limits.size()) {
      const std::optional<double> fill = FillOf(bytes, limits, ends);
      if (!fill) return;
      if (ends.back() > best.first || (ends.back() == best.first && *fill < best.second)) best = {ends.back(), *fill};
      return;
    }
    for (uint32_t end = device == 0 ? 0 : ends[device - 1]; end <= bytes.size(); ++end) {
      ends[device] = end;
      cut(device + 1);
    }
  };
  if (!limits.empty()) cut(0);
  return best;
}

uint64_t Upto(std::mt19937& random, uint64_t most) { return random() % (most + 1); }

TEST(ContiguousParts, EqualsTryingEveryCut) {
  for (uint32_t seed = 1; seed <= 3000; ++seed) {
    std::mt19937 random(seed);
    std::vector<uint64_t> bytes(Upto(random, 8));
    for (uint64_t& part : bytes) part = Upto(random, 3) == 0 ? Upto(random, 60) : Upto(random, 12);
    std::vector<uint64_t> limits(1 + Upto(random, 3));
    for (uint64_t& limit : limits) limit = 1 + Upto(random, 50);
    const Ends ends = CutIntoRanges(bytes, limits);
    const auto [count, fill] = BruteForce(bytes, limits);
    ASSERT_TRUE(std::is_sorted(ends.begin(), ends.end())) << "seed " << seed;
    ASSERT_EQ(ends.back(), count) << "seed " << seed;
    ASSERT_EQ(FillOf(bytes, limits, ends), fill) << "seed " << seed;
  }
}

struct RandomModel {
  ModelBuilder builder;
  std::vector<std::string> part_of;  // per tensor: the module or tensor that stays whole
  std::vector<uint64_t> limits;
  std::string limits_text;

  explicit RandomModel(uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<std::string> names;
    builder.NoSplit("Block");
    const auto add = [&](const std::string& name, const std::string& part) {
      builder.Param(name, 1 + Upto(random, 8));
      names.push_back(name);
      part_of.push_back(part);
    };
    if (Upto(random, 1) == 1) add("scale", "scale");
    for (uint64_t i = 0, modules = 1 + Upto(random, 4); i < modules; ++i) {
      const std::string module = StrCat("m", i);
      const bool whole = Upto(random, 1) == 1;
      builder.Module(module, whole ? "Block" : "Other");
      if (Upto(random, 2) == 0) add(module + ".direct", whole ? module : module + ".direct");
      for (const char* leaf : {".a", ".b"}) {
        builder.Module(module + leaf, "Leaf");
        add(module + leaf + ".w", whole ? module : module + leaf);
      }
    }
    for (uint64_t ties = Upto(random, 2), first = 0; ties > 0 && first + 1 < names.size(); --ties) {
      const uint64_t second = first + 1 + Upto(random, names.size() - first - 2);
      builder.Resize(names[second], builder.model().tensors[first].bytes).Tie({names[first], names[second]});
      first = second + 1;
    }
    for (uint64_t i = 0, devices = 1 + Upto(random, 2); i < devices; ++i) {
      limits.push_back(40 + Upto(random, 120));
      StrAppend(&limits_text, limits_text.empty() ? "" : " ", i, "=", limits.back());
    }
  }
};

// The row of parts that the rule speaks of, and what each weighs: parts by name, united by ties, in registration order.
struct Row {
  std::vector<uint64_t> bytes;
  std::vector<uint32_t> part_of;  // per tensor

  explicit Row(const RandomModel& random) {
    const PlacementModel& model = random.builder.model();
    std::map<std::string, std::string> leader;
    for (const std::string& part : random.part_of) leader[part] = part;
    const auto lead = [&](std::string part) {
      while (leader[part] != part) part = leader[part];
      return part;
    };
    std::set<uint32_t> uncounted;
    for (const std::vector<uint32_t>& group : model.tied_groups) {
      leader[lead(random.part_of[group[1]])] = lead(random.part_of[group[0]]);
      uncounted.insert(group[1]);
    }
    std::map<std::string, uint32_t> number;
    for (uint32_t i = 0; i < model.tensors.size(); ++i) {
      const auto [at, is_new] = number.try_emplace(lead(random.part_of[i]), static_cast<uint32_t>(bytes.size()));
      if (is_new) bytes.push_back(0);
      part_of.push_back(at->second);
      if (!uncounted.contains(i)) bytes[at->second] += model.tensors[i].bytes;
    }
  }
};

TEST(PackedMap, RandomModelsArePackedAsTryingEveryMapDoes) {
  for (uint32_t seed = 1; seed <= 1000; ++seed) {
    const RandomModel random(seed);
    const Row row(random);
    const auto placement =
        Place(random.builder.model(), MakeSpec({.limits = random.limits_text, .policy = "packed"}), EightGpus());
    ASSERT_TRUE(placement.ok());
    std::vector<int> device_of_part(row.bytes.size(), -1);
    for (size_t i = 0; i < row.part_of.size(); ++i) {
      const std::string& device = placement->devices[placement->device_of[i]];
      const int number = device == "disk" ? static_cast<int>(random.limits.size()) : device.back() - '0';
      int& of_part = device_of_part[row.part_of[i]];
      ASSERT_TRUE(of_part == -1 || of_part == number) << "a part is split, seed " << seed;
      of_part = number;
    }
    const uint64_t most = *std::max_element(random.limits.begin(), random.limits.end());
    std::vector<uint64_t> bytes;
    std::vector<int> devices;
    for (size_t part = 0; part < row.bytes.size(); ++part) {
      if (row.bytes[part] <= most) {
        bytes.push_back(row.bytes[part]);
        devices.push_back(device_of_part[part]);
      } else {
        ASSERT_EQ(device_of_part[part], static_cast<int>(random.limits.size())) << "seed " << seed;
      }
    }
    ASSERT_TRUE(std::is_sorted(devices.begin(), devices.end())) << "not contiguous, seed " << seed;
    Ends ends;
    for (size_t d = 0; d < random.limits.size(); ++d) {
      ends.push_back(static_cast<uint32_t>(std::upper_bound(devices.begin(), devices.end(), static_cast<int>(d)) -
                                           devices.begin()));
    }
    const auto [count, fill] = BruteForce(bytes, random.limits);
    ASSERT_EQ(ends.back(), count) << "seed " << seed;
    ASSERT_EQ(FillOf(bytes, random.limits, ends), fill) << "seed " << seed;
  }
}

}  // namespace
}  // namespace keyload
