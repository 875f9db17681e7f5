#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/rpc/limits.h"
#include "tests/unit/rpc/loader_server.h"

namespace keyload {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class WatchModels : public testing::Test {
 protected:
  // One open stream.
  class Watch {
   public:
    Watch(LoaderServer& server, const std::vector<std::string>& models) {
      v1::WatchModelsRequest request;
      for (const std::string& model : models) request.add_models(model);
      reader_ = server.stub().WatchModels(&context_, request);
    }
    // "m_LOADING", or "current"; empty at the end.
    std::string Next() {
      v1::WatchModelsResponse response;
      if (!reader_->Read(&response)) return "";
      if (response.current()) return "current";
      return response.model().name() + v1::ModelState_Name(response.model().state()).substr(11);
    }
    std::vector<std::string> NextOf(int count) {
      std::vector<std::string> changes;
      while (count-- > 0) changes.push_back(Next());
      return changes;
    }
    grpc::Status Finish() { return reader_->Finish(); }
    void Cancel() { context_.TryCancel(); }

   private:
    TestContext context_;
    std::unique_ptr<grpc::ClientReader<v1::WatchModelsResponse>> reader_;
  };

  WatchModels() { server_.WriteSmall(); }
  void Unload(const std::string& model) {
    TestContext context;
    v1::UnloadModelRequest request;
    request.set_model(model);
    v1::UnloadModelResponse response;
    EXPECT_TRUE(server_.stub().UnloadModel(&context, request, &response).ok());
  }

  LoaderServer server_;
};

TEST_F(WatchModels, SaysWhatIsThereAndThenEveryChange) {
  server_.Load(server_.Spec("a"));
  server_.Load(server_.Spec("b"));
  Watch watch(server_, {});
  EXPECT_THAT(watch.NextOf(3), ElementsAre("a_RESIDENT", "b_RESIDENT", "current"));
  server_.node().gpu().HoldCopies();
  const LoaderNode::Started load = server_.node().Start(server_.node().Spec("c"));
  EXPECT_EQ(watch.Next(), "c_LOADING");
  server_.node().gpu().ReleaseCopies();
  EXPECT_EQ(watch.Next(), "c_RESIDENT");
  EXPECT_TRUE(load.observer->WaitForEnd().ok());
}

TEST_F(WatchModels, AModelThatIsUnloadedGoesAndIsGone) {
  server_.Load(server_.Spec());
  Watch watch(server_, {});
  EXPECT_THAT(watch.NextOf(2), ElementsAre("m_RESIDENT", "current"));
  ModelHandle used = *server_.node().registry().Use("m");
  ASSERT_TRUE(server_.node().registry().Unload("m", [](const ModelRegistry::Unloaded&) {}).ok());
  EXPECT_EQ(watch.Next(), "m_UNLOADING");
  used.reset();
  EXPECT_EQ(watch.Next(), "m_UNLOADED");
}

TEST_F(WatchModels, AnotherGenerationIsAChange) {
  server_.Load(server_.Spec());
  Watch watch(server_, {});
  watch.NextOf(2);
  v1::LoadSpec spec = server_.Spec();
  spec.set_if_exists(v1::IF_EXISTS_REPLACE);
  server_.node().gpu().HoldCopies();
  TestContext context;
  const auto stream = server_.stub().Load(&context);
  stream->Write(StartRequest("1", spec));
  EXPECT_EQ(watch.Next(), "m_REPLACING");
  server_.node().gpu().ReleaseCopies();
  EXPECT_EQ(watch.Next(), "m_RESIDENT");
  stream->WritesDone();
  ReadAll(*stream);
}

TEST_F(WatchModels, WhatBecomesResidentOrLazyIsAChange) {
  v1::LoadSpec spec = server_.Spec();
  spec.set_residency(v1::RESIDENCY_LAZY);
  server_.Load(spec);
  Watch watch(server_, {});
  EXPECT_THAT(watch.NextOf(2), ElementsAre("m_LAZY", "current"));
  ASSERT_TRUE(server_.node().Materialize({}).ok());
  EXPECT_EQ(watch.Next(), "m_RESIDENT");
  ASSERT_TRUE(server_.node().Evict({}).ok());
  EXPECT_EQ(watch.Next(), "m_LAZY");
  EXPECT_FALSE(server_.node().ReadKey("m", "a").empty());
  EXPECT_EQ(watch.Next(), "m_RESIDENT");
}

TEST_F(WatchModels, OnlyThoseThatWereAskedFor) {
  server_.Load(server_.Spec("a"));
  Watch watch(server_, {"b"});
  EXPECT_EQ(watch.Next(), "current");
  server_.Load(server_.Spec("c"));
  Unload("a");
  server_.node().gpu().HoldCopies();
  const LoaderNode::Started load = server_.node().Start(server_.node().Spec("b"));
  EXPECT_EQ(watch.Next(), "b_LOADING");
  server_.node().gpu().ReleaseCopies();
  EXPECT_EQ(watch.Next(), "b_RESIDENT");
}

TEST_F(WatchModels, AFailedLoadIsSaidOnce) {
  Watch watch(server_, {});
  EXPECT_EQ(watch.Next(), "current");
  { const auto claim = server_.node().registry().Begin("x"); }
  { const auto claim = server_.node().registry().Begin("y"); }
  std::string last;
  while ((last = watch.Next()) != "y_FAILED") EXPECT_THAT(last, testing::AnyOf("x_LOADING", "x_FAILED", "y_LOADING"));
}

TEST_F(WatchModels, ASlowClientGetsTheLastStateOfEachModel) {
  constexpr int kChanges = 5000;
  Watch watch(server_, {});
  EXPECT_EQ(watch.Next(), "current");
  for (int i = 0; i < kChanges; ++i) {
    const auto claim = server_.node().registry().Begin("x");
  }
  server_.Load(server_.Spec("end"));
  int messages = 0;
  std::string last;
  while ((last = watch.Next()) != "end_RESIDENT") ++messages;
  EXPECT_LT(messages, kChanges) << "what it did not take was replaced by what came later";
}

TEST_F(WatchModels, ADrainEndsTheStreamAtOnce) {
  Watch watch(server_, {});
  EXPECT_EQ(watch.Next(), "current");
  server_.server().BeginDrain();
  EXPECT_EQ(watch.Next(), "");
  const grpc::Status status = watch.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(InfoOf(status).reason(), "DRAINING");
}

TEST_F(WatchModels, OneThatIsOpenedWhileTheServerDrainsEndsAtOnce) {
  server_.server().BeginDrain();
  Watch watch(server_, {});
  EXPECT_EQ(watch.Next(), "");
  EXPECT_EQ(InfoOf(watch.Finish()).reason(), "DRAINING");
}

TEST_F(WatchModels, AClientThatGoesAwayLeavesNothingBehind) {
  {
    Watch watch(server_, {});
    EXPECT_EQ(watch.Next(), "current");
    watch.Cancel();
    EXPECT_EQ(watch.Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  server_.Load(server_.Spec());
  Unload("m");
}

TEST_F(WatchModels, TheNamesAreCountedAsLongAsTheStreamIsOpen) {
  const HeapAccount& memory = *server_.node().service().request_memory();
  const uint64_t before = memory.used_bytes();
  Watch watch(server_, std::vector<std::string>(5000, std::string(50, 'a')));
  EXPECT_EQ(watch.Next(), "current");
  EXPECT_GE(memory.used_bytes(), before + 5000 * 50);
}

TEST_F(WatchModels, OneCallerHasHalfOfTheStreams) {
  std::vector<std::unique_ptr<Watch>> open;
  for (size_t i = 0; i < kMaxWatchers / 2; ++i) {
    open.push_back(std::make_unique<Watch>(server_, std::vector<std::string>()));
    ASSERT_EQ(open.back()->Next(), "current");
  }
  Watch more(server_, {});
  EXPECT_EQ(more.Next(), "");
  EXPECT_EQ(InfoOf(more.Finish()).reason(), "LOAD_QUEUE_FULL");
}

TEST_F(WatchModels, TooManyNamesAreRefused) {
  Watch watch(server_, std::vector<std::string>(10'001, "a"));
  EXPECT_EQ(watch.Next(), "");
  EXPECT_EQ(InfoOf(watch.Finish()).reason(), "BAD_REQUEST");
}

}  // namespace
}  // namespace keyload
