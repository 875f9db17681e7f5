#include "server/device/host_memory_limit.h"

#include <gtest/gtest.h>

#include <algorithm>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace keyload {
namespace {

// A root directory with /proc and /sys files of the test's choice; MemTotal is 1000 KiB.
class HostMemoryLimitTest : public testing::Test {
 protected:
  HostMemoryLimitTest() {
    EXPECT_NE(::mkdtemp(root_.data()), nullptr);
    Write("/proc/meminfo", "MemTotal:           1000 kB\nMemFree:   10 kB\n");
  }
  ~HostMemoryLimitTest() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }

  std::string root_ = testing::TempDir() + "keyload-root-XXXXXX";
};

TEST_F(HostMemoryLimitTest, WithoutACgroupItIsPhysicalMemory) { EXPECT_EQ(HostMemoryLimit(root_), 1'024'000u); }

TEST_F(HostMemoryLimitTest, TheSmallestLimitUpTheV2HierarchyCounts) {
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/sys/fs/cgroup/a/memory.max", "5000\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "7000\n");
  EXPECT_EQ(HostMemoryLimit(root_), 5'000u);
}

TEST_F(HostMemoryLimitTest, LevelsOfTheHierarchyThatSetNoLimitArePassedOver) {
  Write("/proc/self/cgroup", "0::/slice/pod/container/init\n");
  Write("/sys/fs/cgroup/slice/memory.max", "max\n");
  Write("/sys/fs/cgroup/slice/pod/memory.max", "6000\n");
  Write("/sys/fs/cgroup/slice/pod/container/memory.max", "max\n");
  Write("/sys/fs/cgroup/slice/pod/container/init/cgroup.procs", "1\n");  // without the memory controller
  EXPECT_EQ(HostMemoryLimit(root_), 6'000u);
}

TEST_F(HostMemoryLimitTest, MaxIsNoLimit) {
  Write("/proc/self/cgroup", "0::/a\n");
  Write("/sys/fs/cgroup/a/memory.max", "max\n");
  EXPECT_EQ(HostMemoryLimit(root_), 1'024'000u);
}

TEST_F(HostMemoryLimitTest, V1CountsTheMemoryControllerOnly) {
  Write("/proc/self/cgroup", "5:cpu,cpuacct:/c\n4:memory:/m\n0::/\n");
  Write("/sys/fs/cgroup/memory/c/memory.limit_in_bytes", "1\n");
  Write("/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "6000\n");
  EXPECT_EQ(HostMemoryLimit(root_), 6'000u);
}

TEST_F(HostMemoryLimitTest, APathThatIsNotMountedLeavesTheTopOfTheMount) {
  Write("/proc/self/cgroup", "4:memory:/docker/0123\n0::/../../x\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "6000\n");
  EXPECT_EQ(HostMemoryLimit(root_), 6'000u);
}

TEST_F(HostMemoryLimitTest, AnUnreadableProcIsZero) { EXPECT_EQ(HostMemoryLimit(root_ + "/nowhere"), 0u); }

TEST_F(HostMemoryLimitTest, HeadroomIsWhatIsAvailableLessATenth) {
  Write("/proc/meminfo", "MemTotal:           1000 kB\nMemAvailable:   400 kB\n");
  EXPECT_EQ(HostMemoryHeadroom(root_), 307'200u);
}

TEST_F(HostMemoryLimitTest, HeadroomOfAV2GroupCountsPageCacheThatCanBeDroppedAsFree) {
  Write("/proc/meminfo", "MemTotal:           1000 kB\nMemAvailable:   900 kB\n");
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/sys/fs/cgroup/a/memory.max", "100000\n");
  Write("/sys/fs/cgroup/a/memory.current", "90000\n");
  Write("/sys/fs/cgroup/a/memory.stat", "anon 1\nactive_file 20000\ninactive_file 30000\nunevictable 7\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  Write("/sys/fs/cgroup/a/b/memory.current", "90000\n");
  EXPECT_EQ(HostMemoryHeadroom(root_), 50'000u);
}

TEST_F(HostMemoryLimitTest, HeadroomOfAV1GroupCountsTheGroupsBelowIt) {
  Write("/proc/meminfo", "MemTotal:           1000 kB\nMemAvailable:   900 kB\n");
  Write("/proc/self/cgroup", "4:memory:/m\n");
  Write("/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "100000\n");
  Write("/sys/fs/cgroup/memory/m/memory.usage_in_bytes", "90000\n");
  Write("/sys/fs/cgroup/memory/m/memory.stat", "active_file 1\ntotal_active_file 20000\ntotal_inactive_file 0\n");
  EXPECT_EQ(HostMemoryHeadroom(root_), 20'000u);
}

TEST_F(HostMemoryLimitTest, AGroupThatIsFullHasNoHeadroom) {
  Write("/proc/meminfo", "MemTotal:           1000 kB\nMemAvailable:   900 kB\n");
  Write("/proc/self/cgroup", "0::/a\n");
  Write("/sys/fs/cgroup/a/memory.max", "100000\n");
  Write("/sys/fs/cgroup/a/memory.current", "99000\n");
  EXPECT_EQ(HostMemoryHeadroom(root_), 0u);
}

TEST_F(HostMemoryLimitTest, WithoutMeminfoThereIsNoHeadroom) { EXPECT_EQ(HostMemoryHeadroom(root_ + "/nowhere"), 0u); }

TEST_F(HostMemoryLimitTest, PageCacheThatIsNotWrittenYetIsNotFree) {
  Write("/proc/meminfo", "MemTotal:           1000 kB\nMemAvailable:   900 kB\n");
  Write("/proc/self/cgroup", "0::/a\n");
  Write("/sys/fs/cgroup/a/memory.max", "100000\n");
  Write("/sys/fs/cgroup/a/memory.current", "90000\n");
  Write("/sys/fs/cgroup/a/memory.stat",
        "active_file 20000\ninactive_file 30000\nfile_dirty 8000\nfile_writeback 2000\n");
  EXPECT_EQ(HostMemoryBounds(root_).back().free, 50'000u);
}

TEST_F(HostMemoryLimitTest, SharedMemoryAndLockedPagesOfAGroupAreNotFree) {
  Write("/proc/meminfo", "MemTotal:           1000 kB\nMemAvailable:   900 kB\n");
  Write("/proc/self/cgroup", "4:memory:/m\n");
  Write("/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "100000\n");
  Write("/sys/fs/cgroup/memory/m/memory.usage_in_bytes", "90000\n");
  Write("/sys/fs/cgroup/memory/m/memory.stat",
        "cache 80000\ntotal_cache 80000\ntotal_shmem 60000\ntotal_unevictable 15000\ntotal_inactive_file 5000\n");
  EXPECT_EQ(HostMemoryBounds(root_).back().free, 15'000u);
}

TEST_F(HostMemoryLimitTest, BoundsAreTheMachineAndTheGroupsBelowIt) {
  Write("/proc/meminfo", "MemTotal:           1000 kB\nMemAvailable:   900 kB\n");
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/sys/fs/cgroup/a/memory.max", "100000\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "2000000\n");
  const std::vector<MemoryBound> bounds = HostMemoryBounds(root_);
  ASSERT_EQ(bounds.size(), 2u);
  EXPECT_TRUE(bounds[0].is_machine);
  EXPECT_EQ(bounds[0].free, 921'600u);
  EXPECT_EQ(bounds[1].limit, 100'000u);
}

TEST(DivideHostMemory, SmallLimitLeavesOutScratchTablesAndTheProcess) {
  const uint64_t mib = 1 << 20;
  const uint64_t tables = 128 * mib;
  for (const uint64_t limit : {96 * mib, 128 * mib, 320 * mib, 512 * mib, 2048 * mib}) {
    const HostMemoryShares shares = DivideHostMemory(limit, 8 * mib, tables, std::nullopt, std::nullopt);
    EXPECT_GT(shares.capacity, limit / 4);
    EXPECT_LE(shares.capacity + shares.scratch + 2 * shares.process + std::min(tables, limit / 4) + 8 * mib, limit);
    EXPECT_LE(shares.scratch, 256 * mib);
  }
}

TEST(DivideHostMemory, LargeMachineKeepsATenth) {
  const uint64_t limit = uint64_t{1000} << 30;
  EXPECT_EQ(DivideHostMemory(limit, 0, uint64_t{2} << 30, std::nullopt, std::nullopt).capacity, limit / 10 * 9);
}

TEST(DivideHostMemory, WhatTheOperatorSaysIsTaken) {
  const HostMemoryShares shares = DivideHostMemory(1 << 30, 0, 1 << 20, 5, 7);
  EXPECT_EQ(shares.scratch, 5u);
  EXPECT_EQ(shares.capacity, 7u);
}

TEST(ProcessMemory, IsMoreThanNothing) { EXPECT_GT(ProcessMemory(), 0u); }

}  // namespace
}  // namespace keyload
