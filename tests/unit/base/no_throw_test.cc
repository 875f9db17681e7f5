#include "server/base/no_throw.h"

#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <string>

#include "absl/status/statusor.h"
#include "server/base/error.h"

namespace keyload {
namespace {

TEST(NoThrow, PassesOnWhatIsReturned) {
  EXPECT_TRUE(NoThrow([] {}).ok());
  EXPECT_EQ(NoThrow([] { return absl::CancelledError("x"); }), absl::CancelledError("x"));
  EXPECT_EQ(*NoThrow([]() -> absl::StatusOr<std::string> { return "text"; }), "text");
}

TEST(NoThrow, MemoryThatIsNotThereIsMemoryExhausted) {
  EXPECT_EQ(ErrorReason(NoThrow([] { throw std::bad_alloc(); })), Reason::kMemoryExhausted);
  EXPECT_EQ(ErrorReason(NoThrow([] { std::string().reserve(std::string().max_size() + 1); })),
            Reason::kMemoryExhausted);
  const auto throws = []() -> absl::StatusOr<int> { throw std::bad_alloc(); };
  EXPECT_EQ(ErrorReason(NoThrow(throws).status()), Reason::kMemoryExhausted);
}

TEST(NoThrow, AnythingElseIsInternalAndSaysWhat) {
  const absl::Status status = NoThrow([] { throw std::runtime_error("a bug"); });
  EXPECT_EQ(ErrorReason(status), Reason::kInternal);
  EXPECT_NE(status.message().find("a bug"), absl::string_view::npos);
  EXPECT_EQ(ErrorReason(NoThrow([] { throw 1; })), Reason::kInternal);
}

}  // namespace
}  // namespace keyload
