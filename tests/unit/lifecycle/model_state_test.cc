#include "server/lifecycle/model_state.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>

namespace keyload {
namespace {

TEST(ModelState, AllowsExactlyTheTransitionsOfItsPicture) {
  using enum ModelState;
  const std::set<std::pair<ModelState, ModelState>> legal = {
      {kUnloaded, kLoading},   {kLoading, kLazy},       {kLoading, kPartial},   {kLoading, kResident},
      {kLoading, kFailed},     {kLazy, kPartial},       {kLazy, kResident},     {kPartial, kLazy},
      {kPartial, kResident},   {kResident, kLazy},      {kResident, kPartial},  {kLazy, kReplacing},
      {kPartial, kReplacing},  {kResident, kReplacing}, {kReplacing, kLazy},    {kReplacing, kPartial},
      {kReplacing, kResident}, {kLazy, kUnloading},     {kPartial, kUnloading}, {kResident, kUnloading},
      {kUnloading, kUnloaded}, {kFailed, kLoading},     {kFailed, kUnloaded},
  };
  for (int from = 0; from < kModelStateCount; ++from) {
    for (int to = 0; to < kModelStateCount; ++to) {
      const std::pair pair = {static_cast<ModelState>(from), static_cast<ModelState>(to)};
      EXPECT_EQ(IsLegalTransition(pair.first, pair.second), legal.contains(pair))
          << ModelStateName(pair.first) << " -> " << ModelStateName(pair.second);
    }
  }
}

}  // namespace
}  // namespace keyload
