#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/service/loader_node.h"

namespace keyload {

// Four layers on the GPU, each with tensors "layers.N.a" and "layers.N.b" and a segment of its own.
class ExtendTest : public testing::Test {
 protected:
  static constexpr uint64_t kBytes = 1ull << 20;  // of each tensor

  ExtendTest() {
    std::vector<TestTensor> tensors;
    for (int layer = 0; layer < 4; ++layer) {
      for (const char* part : {"a", "b"}) tensors.push_back(Tensor(layer, part));
    }
    WriteSafetensors(node_.dir() + "/model.safetensors", tensors);
  }
  static TestTensor Tensor(int layer, const std::string& part) {
    return {.name = "layers." + std::to_string(layer) + "." + part, .dtype = DType::kU8, .shape = {kBytes}, .data = ""};
  }
  LoadSpec Spec(std::vector<std::string> include, IfExists if_exists = IfExists::kExtend) {
    LoadSpec spec = node_.Spec();
    spec.select.include = std::move(include);
    spec.if_exists = if_exists;
    return spec;
  }
  LoadSpec Lazy(std::vector<std::string> include) {
    LoadSpec spec = Spec(std::move(include));
    spec.residency = LoadSpec::Residency::kLazy;
    return spec;
  }
  ModelInfo Info() { return *node_.registry().Info("m"); }
  std::shared_ptr<DeviceMemory> MemoryOf(const std::string& key) {
    const ModelHandle model = *node_.registry().Use("m");
    const std::optional<Segment> segment =
        model->residency().Pin(model->TensorOf(static_cast<uint32_t>(model->FindKey(key))));
    return segment ? segment->memory : nullptr;
  }
  MemoryState gpu() { return node_.gpu().account().state(); }
  void ExpectBytes(const std::vector<std::string>& keys) {
    for (const std::string& key : keys) EXPECT_TRUE(node_.ReadKey("m", key) == PatternBytes(key, kBytes)) << key;
  }

  LoaderNode node_;
};

}  // namespace keyload
