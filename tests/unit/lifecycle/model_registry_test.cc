#include "server/lifecycle/model_registry.h"

#include <gtest/gtest.h>

#include <thread>

#include "server/base/error.h"

namespace keyload {
namespace {

ResidentModel::Content Content(const std::string& name, uint64_t lazy = 0) {
  ResidentModel::Content content;
  content.name = name;
  content.keys = std::make_shared<KeyReport>();
  content.report.keys.lazy = lazy;
  return content;
}

void Load(ModelRegistry& registry, const std::string& name) {
  absl::StatusOr<ModelRegistry::Claim> claim = registry.Begin(name);
  ASSERT_TRUE(claim.ok());
  registry.Publish(*std::move(claim), Content(name));
}

TEST(ModelRegistry, ANameIsBusyWhileItLoadsAndUsableAfter) {
  ModelRegistry registry;
  absl::StatusOr<ModelRegistry::Claim> claim = registry.Begin("m");
  ASSERT_TRUE(claim.ok());
  EXPECT_EQ(ErrorReason(registry.Begin("m").status()), Reason::kModelBusy);
  EXPECT_EQ(ErrorReason(registry.Use("m").status()), Reason::kModelBusy);
  EXPECT_EQ(registry.Info("m")->state, ModelState::kLoading);
  registry.Publish(*std::move(claim), Content("m"));
  EXPECT_TRUE(registry.Use("m").ok());
  EXPECT_EQ(registry.Info("m")->state, ModelState::kResident);
  EXPECT_EQ(ErrorReason(registry.Begin("m").status()), Reason::kModelExists);
}

TEST(ModelRegistry, AnAbandonedClaimFreesTheName) {
  ModelRegistry registry;
  { const auto claim = registry.Begin("m"); }
  EXPECT_EQ(ErrorReason(registry.Info("m").status()), Reason::kModelNotFound);
  EXPECT_TRUE(registry.Begin("m").ok());
}

TEST(ModelRegistry, GenerationsGrow) {
  ModelRegistry registry;
  const uint64_t first = registry.Begin("a")->generation();
  EXPECT_GT(registry.Begin("a")->generation(), first);
}

TEST(ModelRegistry, KeysLeftInTheirFilesMakeAModelLazy) {
  ModelRegistry registry;
  registry.Publish(*registry.Begin("m"), Content("m", /*lazy=*/3));
  EXPECT_EQ(registry.Info("m")->state, ModelState::kLazy);
}

TEST(ModelRegistry, ListsInOrderOfNames) {
  ModelRegistry registry;
  for (const char* name : {"b", "a", "c"}) Load(registry, name);
  const std::vector<ModelInfo> list = registry.List();
  ASSERT_EQ(list.size(), 3);
  EXPECT_EQ(list[0].name, "a");
  EXPECT_EQ(list[2].name, "c");
}

TEST(ModelRegistry, UnloadingAnUnknownNameIsFine) {
  ModelRegistry registry;
  const auto unloaded = registry.Unload("nobody", {});
  ASSERT_TRUE(unloaded.ok());
  EXPECT_FALSE(unloaded->was_loaded);
}

TEST(ModelRegistry, UnloadReturnsOnlyWhenTheLastUserIsDone) {
  ModelRegistry registry;
  Load(registry, "m");
  ModelHandle user = *registry.Use("m");
  const std::weak_ptr<const ResidentModel> alive = user;
  bool free_at_return = false;
  std::jthread unloading([&] {
    EXPECT_TRUE(registry.Unload("m", {})->was_loaded);
    free_at_return = alive.expired();
  });
  while (registry.Info("m")->state != ModelState::kUnloading) std::this_thread::yield();
  EXPECT_EQ(ErrorReason(registry.Use("m").status()), Reason::kModelBusy);
  EXPECT_EQ(ErrorReason(registry.Begin("m").status()), Reason::kModelBusy);
  user.reset();
  unloading.join();
  EXPECT_TRUE(free_at_return);
  EXPECT_TRUE(registry.Begin("m").ok());
}

TEST(ModelRegistry, ACancelledUnloadStopsWaitingAndStillUnloads) {
  ModelRegistry registry;
  Load(registry, "m");
  ModelHandle user = *registry.Use("m");
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ErrorReason(registry.Unload("m", {.stop = stop.get_token()}).status()), Reason::kLoadCancelled);
  EXPECT_EQ(registry.Info("m")->state, ModelState::kUnloading);
  user.reset();
  EXPECT_EQ(ErrorReason(registry.Info("m").status()), Reason::kModelNotFound);
}

}  // namespace
}  // namespace keyload
