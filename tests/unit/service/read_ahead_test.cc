// How far ahead of a reader lazy keys are made resident.

#include <gtest/gtest.h>

#include <filesystem>

#include "server/service/model_keys.h"
#include "tests/unit/service/loader_node.h"

namespace keyload {
namespace {

class ReadAheadTest : public testing::Test {
 protected:
  // Loads `count` tensors of `bytes` lazily, "0" to ...
  void Load(size_t count, uint64_t bytes, const std::string& device = "cuda:0") {
    std::vector<TestTensor> tensors;
    for (size_t i = 0; i < count; ++i) {
      tensors.push_back({.name = std::to_string(i), .dtype = DType::kU8, .shape = {bytes}, .data = ""});
    }
    WriteSafetensors(node_.dir() + "/model.safetensors", tensors);
    LoadSpec spec = node_.Spec();
    spec.residency = LoadSpec::Residency::kLazy;
    spec.device_map.policy = device;
    ASSERT_TRUE(node_.Load(spec).ok());
    model_ = node_.registry().Use("m").value();
    keys_ = KeyCursor(model_, KeySelection(), KeyCursor::Of::kWithBytes).Next(count + 1, RequestContext()).value();
    ASSERT_EQ(keys_.size(), count);
  }
  size_t ReadAhead(size_t from) {
    return node_.service().ReadAhead(*model_, std::span(keys_).subspan(from), RequestContext());
  }

  LoaderNode node_{{.gpu_bytes = 256 << 20}};
  ModelHandle model_;
  std::vector<uint32_t> keys_;
};

TEST_F(ReadAheadTest, EndsAfterSoManyKeys) {
  Load(1030, 8);
  EXPECT_EQ(ReadAhead(0), 1024);
  EXPECT_EQ(model_->LiveKeys().loaded, 1024);
  EXPECT_LT(node_.reads().calls(), 16);
  EXPECT_EQ(ReadAhead(1024), 6);
  EXPECT_EQ(model_->LiveKeys().lazy, 0);
  EXPECT_EQ(ReadAhead(1030), 0);
}

TEST_F(ReadAheadTest, EndsBeforeSoManyBytes) {
  Load(3, 30 << 20);
  EXPECT_EQ(ReadAhead(0), 2);
  EXPECT_EQ(model_->LiveKeys().loaded, 2);
}

TEST_F(ReadAheadTest, OneThatIsLargerIsAlone) {
  Load(2, 65 << 20);
  EXPECT_EQ(ReadAhead(0), 1);
}

TEST_F(ReadAheadTest, LeavesInTheirFilesWhatBelongsThere) {
  Load(3, 8, "disk");
  EXPECT_EQ(ReadAhead(0), 3);
  EXPECT_EQ(node_.reads().bytes(), 0);
}

TEST_F(ReadAheadTest, WhatCannotBeReadStaysLazy) {
  Load(3, 8);
  std::filesystem::resize_file(node_.dir() + "/model.safetensors", 8);
  EXPECT_EQ(ReadAhead(0), 3);
  EXPECT_EQ(model_->LiveKeys().loaded, 0);
}

}  // namespace
}  // namespace keyload
