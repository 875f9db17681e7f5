#include "server/base/heap_account.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "server/base/error.h"
#include "server/base/request_context.h"

namespace keyload {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TEST(HeapCharge, BeyondTheLimitIsRefusedAndLeavesTheChargeAsItWas) {
  const auto account = std::make_shared<HeapAccount>(2 * kMiB);
  HeapCharge charge(account);
  ASSERT_TRUE(charge.Resize(kMiB, "one").ok());
  const absl::Status refused = charge.Resize(2 * kMiB + 5, "one");
  EXPECT_EQ(ErrorReason(refused), Reason::kMemoryExhausted);
  EXPECT_NE(refused.message().find("one needs 1048581 bytes more"), absl::string_view::npos) << refused;
  EXPECT_EQ(charge.bytes(), kMiB);
  EXPECT_EQ(account->used_bytes(), kMiB);
}

TEST(HeapCharge, GivesBackWhenItGoes) {
  const auto account = std::make_shared<HeapAccount>(10);
  {
    HeapCharge charge(account);
    ASSERT_TRUE(charge.Resize(10, "one").ok());
    ASSERT_TRUE(charge.Resize(4, "one").ok());
    EXPECT_EQ(account->used_bytes(), 4u);
  }
  EXPECT_EQ(account->used_bytes(), 0u);
}

TEST(HeapCharge, WhereRoomLacksTheOwnerIsAskedUntilItHasNothing) {
  const auto account = std::make_shared<HeapAccount>(10);
  HeapCharge cached(account);
  ASSERT_TRUE(cached.Resize(8, "cache").ok());
  int asked = 0;
  account->set_reclaim([&] {
    ++asked;
    const bool has = cached.bytes() > 0;
    return cached.Resize(0, "cache").ok() && has;
  });
  HeapCharge charge(account);
  EXPECT_TRUE(charge.Resize(10, "one").ok());
  EXPECT_EQ(asked, 1);
  EXPECT_FALSE(charge.Resize(13, "one").ok());
  EXPECT_EQ(asked, 2);
}

TEST(WithCharge, HoldsTheChargeAsLongAsTheValueIsUsed) {
  const auto account = std::make_shared<HeapAccount>(10);
  HeapCharge charge(account);
  ASSERT_TRUE(charge.Resize(10, "one").ok());
  auto value = WithCharge<std::string>(std::make_shared<const std::string>("x"), std::move(charge));
  std::shared_ptr<const std::string> other = value;
  value.reset();
  EXPECT_EQ(account->used_bytes(), 10u);
  other.reset();
  EXPECT_EQ(account->used_bytes(), 0u);
}

TEST(RequestHeap, SmallRequestIsServedWhileTheAccountIsFull) {
  const auto account = std::make_shared<HeapAccount>(kMiB);
  HeapCharge all(account);
  ASSERT_TRUE(all.Resize(kMiB, "all").ok());
  RequestHeap heap(account);
  EXPECT_TRUE(heap.Take(HeapAccount::kSmallCharge, "small").ok());
  EXPECT_EQ(ErrorReason(heap.Take(1, "more")), Reason::kMemoryExhausted);
}

TEST(RequestHeap, OneRequestGetsHalfOfTheAccount) {
  const auto account = std::make_shared<HeapAccount>(4 * kMiB);
  RequestHeap heap(account);
  EXPECT_TRUE(heap.Take(2 * kMiB, "tables").ok());
  EXPECT_EQ(ErrorReason(heap.Take(kMiB, "tables")), Reason::kMemoryExhausted);
  EXPECT_EQ(ErrorReason(heap.Take(UINT64_MAX, "tables")), Reason::kMemoryExhausted);
  EXPECT_EQ(account->used_bytes(), 2 * kMiB);
}

TEST(RequestContext, CountsNothingWithoutAHeap) { EXPECT_TRUE(RequestContext().TakeHeap(UINT64_MAX, "all").ok()); }

}  // namespace
}  // namespace keyload
