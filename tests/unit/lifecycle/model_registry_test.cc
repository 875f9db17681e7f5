#include "server/lifecycle/model_registry.h"

#include <gtest/gtest.h>

#include <future>
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

void Ignore(const ModelRegistry::Unloaded& /*unloaded*/) {}

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
  EXPECT_EQ(ErrorReason(registry.Unload("m", Ignore)), Reason::kModelBusy);
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
  ASSERT_TRUE(registry.Unload("m", Ignore).ok());
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
  bool done = false;
  EXPECT_TRUE(registry
                  .Unload("nobody",
                          [&](const ModelRegistry::Unloaded& unloaded) {
                            EXPECT_FALSE(unloaded.was_loaded);
                            done = true;
                          })
                  .ok());
  EXPECT_TRUE(done);
}

TEST(ModelRegistry, WithoutUsersItIsUnloadedAtOnce) {
  ModelRegistry registry;
  Load(registry, "m");
  bool done = false;
  EXPECT_TRUE(registry.Unload("m", [&](const ModelRegistry::Unloaded& unloaded) { done = unloaded.was_loaded; }).ok());
  EXPECT_TRUE(done);
  EXPECT_TRUE(registry.List().empty());
}

TEST(ModelRegistry, UnloadSaysWhichGenerationWasWithdrawnBeforeTheNameIsFree) {
  ModelRegistry registry({.first_generation = 100});
  Load(registry, "m");
  std::vector<uint64_t> withdrawn;
  const auto remember = [&](uint64_t generation) {
    withdrawn.push_back(generation);
    EXPECT_FALSE(registry.Begin("m").ok());
  };
  bool done = false;
  const auto end = [&](const ModelRegistry::Unloaded&) {
    EXPECT_EQ(withdrawn, std::vector<uint64_t>{101});
    done = true;
  };
  ASSERT_TRUE(registry.Unload("m", end, remember).ok());
  EXPECT_TRUE(done);
  ASSERT_TRUE(registry.Unload("nobody", Ignore, [&](uint64_t generation) { withdrawn.push_back(generation); }).ok());
  EXPECT_EQ(withdrawn.back(), 0u);
}

TEST(ModelRegistry, UnloadIsDoneOnlyWhenTheLastUserIs) {
  ModelRegistry registry;
  Load(registry, "m");
  ModelHandle user = *registry.Use("m");
  const std::weak_ptr<const ResidentModel> alive = user;
  int done = 0;
  ASSERT_TRUE(registry
                  .Unload("m",
                          [&](const ModelRegistry::Unloaded& unloaded) {
                            EXPECT_TRUE(unloaded.was_loaded);
                            EXPECT_TRUE(alive.expired());
                            EXPECT_TRUE(registry.Begin("m").ok());  // the name is free, and no lock is held
                            ++done;
                          })
                  .ok());
  EXPECT_EQ(registry.Info("m")->state, ModelState::kUnloading);
  EXPECT_EQ(ErrorReason(registry.Use("m").status()), Reason::kModelBusy);
  EXPECT_EQ(ErrorReason(registry.Begin("m").status()), Reason::kModelBusy);
  EXPECT_EQ(ErrorReason(registry.Unload("m", Ignore)), Reason::kModelBusy);
  EXPECT_EQ(done, 0);
  user.reset();
  EXPECT_EQ(done, 1);
}

// A file reader that says which thread its model was freed by.
void LoadFreedBy(ModelRegistry& registry, const std::string& name, std::thread::id& freed_by) {
  ResidentModel::Content content = Content(name);
  content.make_reader = [witness = std::shared_ptr<void>(nullptr, [&](void*) {
                           freed_by = std::this_thread::get_id();
                         })](const Shard&) { return std::unique_ptr<ShardReader>(); };
  registry.Publish(*registry.Begin(name), std::move(content));
}

TEST(ModelRegistry, TheLastUserFreesNothingItself) {
  std::thread::id freed_by;
  {
    ModelRegistry registry({.frees_apart = true});
    LoadFreedBy(registry, "m", freed_by);
    ModelHandle last = *registry.Use("m");
    std::promise<void> unloaded;
    ASSERT_TRUE(registry.Unload("m", [&](const ModelRegistry::Unloaded&) { unloaded.set_value(); }).ok());
    EXPECT_EQ(freed_by, std::thread::id());
    last.reset();
    unloaded.get_future().wait();
    EXPECT_NE(freed_by, std::thread::id());
    EXPECT_NE(freed_by, std::this_thread::get_id());
  }
}

TEST(ModelRegistry, WhoeverHoldsAFreeingHereFrees) {
  std::thread::id freed_by;
  ModelRegistry registry({.frees_apart = true});
  LoadFreedBy(registry, "m", freed_by);
  const ModelRegistry::FreeingHere freeing_here;
  bool unloaded = false;
  ASSERT_TRUE(registry.Unload("m", [&](const ModelRegistry::Unloaded&) { unloaded = true; }).ok());
  EXPECT_TRUE(unloaded);
  EXPECT_EQ(freed_by, std::this_thread::get_id());
}

TEST(ModelRegistry, EndsAfterWhatItsThreadFrees) {
  std::thread::id freed_by;
  {
    ModelRegistry registry({.frees_apart = true});
    LoadFreedBy(registry, "gone", freed_by);
    LoadFreedBy(registry, "kept", freed_by);
    ASSERT_TRUE(registry.Unload("gone", Ignore).ok());
  }
  EXPECT_EQ(freed_by, std::this_thread::get_id()) << "the model that was there at the end";
}

}  // namespace
}  // namespace keyload
