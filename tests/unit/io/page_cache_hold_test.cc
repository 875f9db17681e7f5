#include "server/io/page_cache_hold.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <stop_token>

#include "server/base/error.h"
#include "tests/unit/io/disk_file.h"

namespace keyload {
namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr uint64_t kPage = 4096;

uint64_t NoShortage() { return std::numeric_limits<uint64_t>::max(); }

bool MayLock(size_t bytes) {
  void* const address = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const bool locked = ::mlock(address, bytes) == 0;
  ::munmap(address, bytes);
  return locked;
}

#ifdef __SANITIZE_ADDRESS__
constexpr bool kLocks = false;
#else
constexpr bool kLocks = true;
#endif

absl::StatusOr<HeldPages> Hold(HoldBudget& budget, const DiskFile& file, std::vector<ByteRange> ranges,
                               const RequestContext& context = {}) {
  ReadCounts counts;
  return HoldInPageCache(budget, file.fd(), file.path(), ranges, context, counts);
}

TEST(HoldInPageCacheTest, HeldPagesStayUntilTheyAreLetGo) {
  if (!kLocks) GTEST_SKIP() << "AddressSanitizer makes mlock do nothing";
  const DiskFile file(kMiB);
  if (!file.DropAll()) GTEST_SKIP() << "the temporary directory is not on a disk";
  HoldBudget budget(kMiB, NoShortage);
  {
    const auto held = Hold(budget, file, {{10 * kPage + 5, 2 * kPage}});
    ASSERT_TRUE(held.ok()) << held.status();
    EXPECT_EQ(held->held_bytes(), 3 * kPage);
    EXPECT_EQ(held->refused_bytes(), 0u);
    EXPECT_EQ(held->refusal(), "");
    EXPECT_EQ(budget.held(), 3 * kPage);
    EXPECT_FALSE(file.DropAll());
    EXPECT_EQ(file.resident({10 * kPage, 3 * kPage}), 3 * kPage);
  }
  EXPECT_EQ(budget.held(), 0u);
  EXPECT_TRUE(file.DropAll());
}

TEST(HoldInPageCacheTest, APageThatRangesShareCountsOnce) {
  const DiskFile file(kMiB);
  HoldBudget budget(kMiB, NoShortage);
  const auto held = Hold(budget, file, {{2 * kPage - 10, 5}, {kPage, 100}, {2 * kPage - 1, 2}, {9 * kPage, 0}});
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_EQ(held->held_bytes(), 2 * kPage);
}

TEST(HoldInPageCacheTest, BeyondTheBudgetNothingIsReadAndTheReasonIsGiven) {
  if (!MayLock(16 * kMiB)) GTEST_SKIP() << "not enough memory may be locked";
  const DiskFile file(20 * kMiB);
  if (!file.DropAll()) GTEST_SKIP() << "the temporary directory is not on a disk";
  HoldBudget budget(17 * kMiB, NoShortage);
  const auto held = Hold(budget, file, {{0, 18 * kMiB}, {19 * kMiB, kMiB}});
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_EQ(held->held_bytes(), 16 * kMiB);
  EXPECT_EQ(held->refused_bytes(), 3 * kMiB);
  EXPECT_EQ(held->refusal(), "the budget of 17.0 MiB is used up");
  EXPECT_GE(file.resident(file.all()), 16 * kMiB);
}

TEST(HoldInPageCacheTest, ModelsShareTheBudget) {
  const DiskFile file(kMiB);
  HoldBudget budget(6 * kPage, NoShortage);
  const auto first = Hold(budget, file, {{0, 4 * kPage}});
  ASSERT_TRUE(first.ok());
  const auto second = Hold(budget, file, {{0, 4 * kPage}});
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->held_bytes(), 0u);
  EXPECT_EQ(budget.held(), 4 * kPage);
}

TEST(HoldInPageCacheTest, ASystemThatIsShortOfMemoryRefuses) {
  const DiskFile file(kMiB);
  HoldBudget budget(kMiB, [] { return 3 * kPage; });
  const auto held = Hold(budget, file, {{0, 4 * kPage}});
  ASSERT_TRUE(held.ok());
  EXPECT_EQ(held->refused_bytes(), 4 * kPage);
  EXPECT_EQ(held->refusal(), "the system has 12.0 KiB of memory left to hold");
}

TEST(HoldInPageCacheTest, AFileThatShrinksInBetweenIsTruncatedAndHoldsNothing) {
  if (!MayLock(17 * kMiB)) GTEST_SKIP() << "not enough memory may be locked";
  DiskFile file(17 * kMiB);
  int pieces = 0;
  HoldBudget budget(32 * kMiB, [&] {
    if (++pieces == 2) file.Truncate(16 * kMiB + kPage);
    return NoShortage();
  });
  EXPECT_EQ(ErrorReason(Hold(budget, file, {{0, 17 * kMiB}}).status()), Reason::kCheckpointTruncated);
  EXPECT_EQ(budget.held(), 0u);
}

TEST(HoldInPageCacheTest, AFileThatShrinksLaterLosesPagesAndNothingElse) {
  DiskFile file(kMiB);
  HoldBudget budget(kMiB, NoShortage);
  {
    const auto held = Hold(budget, file, {file.all()});
    ASSERT_TRUE(held.ok());
    file.Truncate(0);
  }
  EXPECT_EQ(budget.held(), 0u);
}

// What PageHolder::Lock builds on: it is an error of the call and not a signal.
TEST(HoldInPageCacheTest, TheKernelRefusesToLockWhatAFileHasNoMore) {
  if (!kLocks) GTEST_SKIP() << "AddressSanitizer makes mlock do nothing";
  DiskFile file(8 * kPage);
  void* const address = ::mmap(nullptr, 8 * kPage, PROT_READ, MAP_SHARED, file.fd(), 0);
  ASSERT_NE(address, MAP_FAILED);
  file.Truncate(kPage);
  EXPECT_EQ(::mlock(address, 8 * kPage), -1);
  EXPECT_EQ(errno, ENOMEM);
  ::munmap(address, 8 * kPage);
}

TEST(HoldInPageCacheTest, ACancelledHoldHoldsNothing) {
  const DiskFile file(kMiB);
  HoldBudget budget(kMiB, NoShortage);
  std::stop_source source;
  source.request_stop();
  EXPECT_EQ(ErrorReason(Hold(budget, file, {file.all()}, {.stop = source.get_token()}).status()),
            Reason::kLoadCancelled);
  EXPECT_EQ(budget.held(), 0u);
}

// Takes the capability to lock without limit from this thread, and lowers its limit, for as long as it lives.
class LockLimit {
 public:
  explicit LockLimit(rlim_t limit) {
    EXPECT_EQ(::syscall(SYS_capget, &header_, before_), 0);
    __user_cap_data_struct without[2] = {before_[0], before_[1]};
    without[0].effective &= ~(1u << CAP_IPC_LOCK);
    EXPECT_EQ(::syscall(SYS_capset, &header_, without), 0);
    EXPECT_EQ(::getrlimit(RLIMIT_MEMLOCK, &limit_before_), 0);
    rlimit lowered = limit_before_;
    lowered.rlim_cur = limit;
    EXPECT_EQ(::setrlimit(RLIMIT_MEMLOCK, &lowered), 0);
  }
  ~LockLimit() {
    ::setrlimit(RLIMIT_MEMLOCK, &limit_before_);
    ::syscall(SYS_capset, &header_, before_);
  }

 private:
  __user_cap_header_struct header_ = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct before_[2] = {};
  rlimit limit_before_ = {};
};

TEST(HoldBudgetTest, AChangedLimitIsForWhatComes) {
  HoldBudget budget(2 * kPage, NoShortage);
  EXPECT_EQ(budget.Take(2 * kPage), std::nullopt);
  budget.set_limit(kPage);
  EXPECT_EQ(budget.held(), 2 * kPage);
  EXPECT_NE(budget.Take(1), std::nullopt);
  budget.set_limit(3 * kPage);
  EXPECT_EQ(budget.Take(kPage), std::nullopt);
}

TEST(HoldBudgetTest, WhatOthersAreAboutToLockIsNotFree) {
  HoldBudget budget(10 * kPage, [] { return 3 * kPage; });
  EXPECT_EQ(budget.Take(2 * kPage), std::nullopt);
  EXPECT_EQ(budget.coming(), 2 * kPage);
  EXPECT_NE(budget.Take(2 * kPage), std::nullopt);
  EXPECT_EQ(budget.coming(), 2 * kPage);
  budget.Settle(2 * kPage);  // the system counts it from now on
  EXPECT_EQ(budget.Take(3 * kPage), std::nullopt);
  EXPECT_EQ(budget.held(), 5 * kPage);
}

TEST(HoldInPageCacheTest, APieceIsComingUntilItIsLocked) {
  const DiskFile file(kMiB);
  uint64_t coming = 0;
  HoldBudget* taking = nullptr;
  HoldBudget budget(kMiB, [&] {
    coming = taking->coming();
    return NoShortage();
  });
  taking = &budget;
  ASSERT_TRUE(Hold(budget, file, {file.all()}).ok());
  EXPECT_EQ(coming, kMiB);
  EXPECT_EQ(budget.coming(), 0u);
}

TEST(HoldInPageCacheTest, TheLimitOfLockedMemoryRefusesAndIsNamed) {
  if (!kLocks) GTEST_SKIP() << "AddressSanitizer makes mlock do nothing";
  const DiskFile file(kMiB);
  HoldBudget budget(kMiB, NoShortage);
  const LockLimit limit(64 << 10);
  const auto held = Hold(budget, file, {file.all()});
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_EQ(held->refused_bytes(), kMiB);
  EXPECT_THAT(held->refusal(), testing::HasSubstr("RLIMIT_MEMLOCK is 64.0 KiB"));
  EXPECT_EQ(budget.held(), 0u);
}

}  // namespace
}  // namespace keyload
