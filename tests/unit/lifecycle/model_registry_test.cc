#include "server/lifecycle/model_registry.h"

#include <gtest/gtest.h>

#include <thread>

#include "server/base/error.h"

namespace keyload {
namespace {

// A model of `tensors` empty mapped tensors.
ResidentModel::Content Content(const std::string& name, uint32_t tensors = 1,
                               Residency::State state = Residency::State::kResident) {
  auto plan = std::make_shared<LoadPlan>();
  plan->devices = {"cpu"};
  plan->segments = {{.kind = SegmentKind::kFile}};
  plan->tensors.resize(tensors);
  ResidentModel::Content content;
  content.name = name;
  content.keys = std::make_shared<KeyReport>();
  content.plan = plan;
  content.residency = std::make_shared<Residency>(
      Residency::Content{.plan = plan, .segments = {{.kind = SegmentKind::kFile}}, .state = state});
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

TEST(ModelRegistry, TheStateFollowsWhatIsResident) {
  ModelRegistry registry;
  registry.Publish(*registry.Begin("m"), Content("m", 2, Residency::State::kLazy));
  EXPECT_EQ(registry.Info("m")->state, ModelState::kLazy);
  const ModelHandle model = *registry.Use("m");
  for (const uint32_t tensor : {0, 1}) {
    model->residency().Begin(std::vector<uint32_t>{tensor}).Commit();
    EXPECT_EQ(registry.Info("m")->state, tensor == 0 ? ModelState::kPartial : ModelState::kResident);
  }
  model->residency().Evict(std::vector<uint32_t>{0, 1});
  EXPECT_EQ(registry.List()[0].state, ModelState::kLazy);
}

TEST(ModelRegistry, WhileItIsReplacedTheGenerationBeforeIsUsed) {
  ModelRegistry registry;
  Load(registry, "m");
  const uint64_t first = registry.Info("m")->generation;
  absl::StatusOr<ModelRegistry::Claim> claim = registry.BeginReplace("m");
  ASSERT_TRUE(claim.ok());
  EXPECT_EQ(registry.Info("m")->state, ModelState::kReplacing);
  EXPECT_EQ(registry.Info("m")->generation, first);
  EXPECT_TRUE(registry.Use("m").ok());
  EXPECT_EQ(ErrorReason(registry.BeginReplace("m").status()), Reason::kModelBusy);
  EXPECT_EQ(ErrorReason(registry.Begin("m").status()), Reason::kModelBusy);
  EXPECT_EQ(ErrorReason(registry.Unload("m", {}).status()), Reason::kModelBusy);
  const uint64_t second = claim->generation();
  EXPECT_GT(second, first);
  registry.Publish(*std::move(claim), Content("m", 3));
  EXPECT_EQ(registry.Info("m")->generation, second);
  EXPECT_EQ((*registry.Use("m"))->content().plan->tensors.size(), 3);
  EXPECT_EQ(registry.Info("m")->state, ModelState::kResident);
}

TEST(ModelRegistry, AnAbandonedReplacementLeavesTheModelAsItWas) {
  ModelRegistry registry;
  Load(registry, "m");
  const ModelHandle before = *registry.Use("m");
  const uint64_t generation = registry.Info("m")->generation;
  { const auto claim = registry.BeginReplace("m"); }
  EXPECT_EQ(registry.Info("m")->state, ModelState::kResident);
  EXPECT_EQ(registry.Info("m")->generation, generation);
  EXPECT_EQ(*registry.Use("m"), before);
}

TEST(ModelRegistry, UnloadWaitsForTheUsersOfAllGenerations) {
  ModelRegistry registry;
  Load(registry, "m");
  ModelHandle user = *registry.Use("m");
  registry.Publish(*registry.BeginReplace("m"), Content("m"));
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ErrorReason(registry.Unload("m", {.stop = stop.get_token()}).status()), Reason::kLoadCancelled);
  EXPECT_EQ(registry.Info("m")->state, ModelState::kUnloading);
  user.reset();
  EXPECT_EQ(ErrorReason(registry.Info("m").status()), Reason::kModelNotFound);
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
