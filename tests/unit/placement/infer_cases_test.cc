// The cases of accelerate's own tests of infer_auto_device_map (1 to 18) and more that were run through it (19 to 29).

#include <gtest/gtest.h>

#include "tests/unit/placement/model_builder.h"

namespace keyload {
namespace {

TEST(InferCase, Case1KeepsRoomForTheBiggestLayerOnTheFirstGpu) {
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "0=200 1=200"}), "linear1:0 batchnorm:1 linear2:1");
}

TEST(InferCase, Case2KeepsNoRoomOnTheSecondGpu) {
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "0=200 1=172 2=200"}), "linear1:0 batchnorm:1 linear2:1");
}

TEST(InferCase, Case3TiedWeightsCountOnceAndGoTogether) {
  EXPECT_EQ(Map(ModelBuilder().M().Tie({"linear1.weight", "linear2.weight"}), {.limits = "0=200 1=200"}), "/:0");
}

TEST(InferCase, Case4SplitsAModuleBetweenTwoGpus) {
  EXPECT_EQ(Map(ModelBuilder().ThreeM(), {.limits = "0=500 1=500"}), "0:0 1.linear1:0 1.batchnorm:0 1.linear2:1 2:1");
}

TEST(InferCase, Case5NoSplitClassStaysWhole) {
  EXPECT_EQ(Map(ModelBuilder().ThreeM().NoSplit("ModelForTest"), {.limits = "0=500 1=500"}), "0:0 1:1 2:1");
}

TEST(InferCase, Case6TiedLayerComesAlongAlone) {
  EXPECT_EQ(Map(ModelBuilder().S3().Tie({"layer1.linear2.weight", "layer3.linear2.weight"}), {.limits = "0=400 1=500"}),
            "layer1:0 layer2:1 layer3.linear1:1 layer3.batchnorm:1 layer3.linear2:0");
}

TEST(InferCase, Case7TwoTiedLayersComeAlong) {
  EXPECT_EQ(Map(ModelBuilder().S3().Tie({"layer1.linear2.weight", "layer2.linear2.weight", "layer3.linear2.weight"}),
                {.limits = "0=400 1=500"}),
            "layer1:0 layer2.linear1:1 layer2.batchnorm:1 layer2.linear2:0 layer3.linear1:1 layer3.batchnorm:1 "
            "layer3.linear2:0");
}

TEST(InferCase, Case8TwoTiedGroups) {
  EXPECT_EQ(Map(ModelBuilder()
                    .S3()
                    .Tie({"layer1.linear2.weight", "layer2.linear2.weight", "layer3.linear2.weight"})
                    .Tie({"layer1.linear1.weight", "layer2.linear1.weight"}),
                {.limits = "0=400 1=500"}),
            "layer1:0 layer2.linear1:0 layer2.batchnorm:1 layer2.linear2:0 layer3.linear1:1 layer3.batchnorm:1 "
            "layer3.linear2:0");
}

TEST(InferCase, Case9WholeLayerTied) {
  ModelBuilder model;
  model.Linear("linear1", 4, 4).Linear("linear2", 6, 6).Linear("linear3", 4, 4).Linear("linear4", 6, 6);
  model.Tie({"linear1.weight", "linear3.weight"}).Tie({"linear1.bias", "linear3.bias"});
  EXPECT_EQ(Map(model, {.limits = "0=250 1=400"}), "linear1:0 linear2:1 linear3:0 linear4:1");
}

TEST(InferCase, Case10OffloadedBuffersThatFitOnNoGpuWarn) {
  const MapRequest request = {.limits = "0=400 cpu=1000000000"};
  EXPECT_EQ(Map(ModelBuilder().MB(), request), "linear1:0 batchnorm:cpu linear2:cpu");
  EXPECT_EQ(Warnings(ModelBuilder().MB(), request), "buffers");
}

TEST(InferCase, Case11OffloadBuffersSilencesTheWarning) {
  const MapRequest request = {.limits = "0=400 cpu=1000000000", .offload_buffers = true};
  EXPECT_EQ(Map(ModelBuilder().MB(), request), "linear1:0 batchnorm:cpu linear2:cpu");
  EXPECT_EQ(Warnings(ModelBuilder().MB(), request), "");
}

ModelBuilder& AddMB3(ModelBuilder& model) { return model.MB().Linear("linear3", 4, 5).Buffer("linear3.buffer", 20); }

TEST(InferCase, Case12BuffersThatFitOnAnotherGpuDoNotWarn) {
  ModelBuilder model;
  const MapRequest request = {.limits = "0=400 1=400 cpu=1000000000"};
  EXPECT_EQ(Map(AddMB3(model), request), "linear1:0 batchnorm:1 linear2:cpu linear3:cpu");
  EXPECT_EQ(Warnings(model, request), "");
}

TEST(InferCase, Case13BuffersThatFitOnNeitherGpuWarn) {
  ModelBuilder model;
  MapRequest request = {.limits = "0=400 1=200 cpu=1000000000"};
  EXPECT_EQ(Map(AddMB3(model), request), "linear1:0 batchnorm:1 linear2:cpu linear3:cpu");
  EXPECT_EQ(Warnings(model, request), "buffers");
  request.offload_buffers = true;
  EXPECT_EQ(Warnings(model, request), "");
}

TEST(InferCase, Case14NothingFitsWithoutFallback) {
  EXPECT_EQ(Map(ModelBuilder().F(), {.limits = "0=256"}), "/:disk");
  EXPECT_EQ(Warnings(ModelBuilder().F(), {.limits = "0=256"}), "0 needs 336");
}

TEST(InferCase, Case15FallbackPlacesASmallerLayer) {
  EXPECT_EQ(Map(ModelBuilder().F(), {.limits = "0=256", .fallback_allocation = true}),
            "module.linear1:disk module.linear2:0 module.linear3:disk");
}

TEST(InferCase, Case16FallbackFindsNothing) {
  ModelBuilder model;
  model.Module("module")
      .Linear("module.linear1", 10, 10)
      .Linear("module.linear2", 10, 10)
      .Linear("module.linear3", 10, 10);
  EXPECT_EQ(Map(model, {.limits = "0=30", .fallback_allocation = true}), "/:disk");
}

TEST(InferCase, Case17FallbackWithATiedWeight) {
  ModelBuilder model;
  model.Linear("linear1", 10, 10).Linear("linear2", 10, 10).Tie({"linear1.weight", "linear2.weight"});
  EXPECT_EQ(Map(model, {.limits = "0=600", .fallback_allocation = true}), "/:0");
}

TEST(InferCase, Case18FallbackWithBuffers) {
  ModelBuilder model;
  model.Linear("linear1", 10, 10).Buffer("linear1.buffer", 5);
  model.BatchNorm("batchnorm", 10).Buffer("batchnorm.buffer", 5).Linear("linear2", 10, 10).Buffer("linear2.buffer", 5);
  const MapRequest request = {.limits = "0=678", .fallback_allocation = true};
  EXPECT_EQ(Map(model, request), "linear1:disk batchnorm:0 linear2:disk");
  EXPECT_EQ(Warnings(model, request), "buffers");
}

TEST(InferCase, Case19LimitIsInclusive) {
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "0=236"}), "/:0");
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "0=235"}), "linear1:0 batchnorm:disk linear2:disk");
}

TEST(InferCase, Case20ReserveIsInclusive) {
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "0=164 1=1000"}), "linear1:0 batchnorm:1 linear2:1");
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "0=163 1=1000"}), "/:1");
}

TEST(InferCase, Case21OverflowGoesToCpuOnlyWhereItIsNamed) {
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "0=200"}), "linear1:0 batchnorm:disk linear2:disk");
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "0=200 cpu=1000"}), "linear1:0 batchnorm:cpu linear2:cpu");
}

TEST(InferCase, Case22OrderOfTheLimitsDoesNotMatter) {
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "cpu=1000 0=200"}), "linear1:0 batchnorm:cpu linear2:cpu");
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "1=200 0=200"}), "linear1:0 batchnorm:1 linear2:1");
}

TEST(InferCase, Case23LimitOfDiskIsIgnored) {
  EXPECT_EQ(Map(ModelBuilder().M(), {.limits = "cpu=150 disk=10"}), "/:disk");
  EXPECT_EQ(Warnings(ModelBuilder().M(), {.limits = "cpu=150 disk=10"}), "cpu needs 164");
}

TEST(InferCase, Case24ThreeGpus) {
  EXPECT_EQ(Map(ModelBuilder().ThreeM(), {.limits = "0=336 1=236 2=236"}), "0:0 1:1 2:2");
  EXPECT_EQ(Map(ModelBuilder().ThreeM(), {.limits = "0=336 1=235 2=500"}),
            "0:0 1.linear1:1 1.batchnorm:1 1.linear2:2 2:2");
}

TEST(InferCase, Case25GpuThenCpuThenDisk) {
  EXPECT_EQ(Map(ModelBuilder().ThreeM(), {.limits = "0=336 cpu=336"}), "0:0 1:cpu 2:disk");
}

TEST(InferCase, Case26LanguageModelTiedAndNot) {
  EXPECT_EQ(
      Map(ModelBuilder().LM().Tie({"embed.weight", "lm_head.weight"}), {.limits = "0=500 1=1000"}),
      "embed:0 layers.0:0 layers.1:0 layers.2:0 layers.3:1 layers.4:1 layers.5:1 layers.6:1 layers.7:1 layers.8:1 "
      "layers.9:1 layers.10:1 layers.11:1 lm_head:0");
  EXPECT_EQ(
      Map(ModelBuilder().LM(), {.limits = "0=500 1=1000"}),
      "embed:0 layers.0:0 layers.1:0 layers.2:1 layers.3:1 layers.4:1 layers.5:1 layers.6:1 layers.7:1 layers.8:1 "
      "layers.9:1 layers.10:1 layers.11:1 lm_head:1");
}

TEST(InferCase, Case27TiedHeadComesAlongWhenNoLayerFits) {
  EXPECT_EQ(Map(ModelBuilder().LM().Tie({"embed.weight", "lm_head.weight"}), {.limits = "0=300 1=2000"}),
            "embed:0 layers:1 lm_head:0");
}

TEST(InferCase, Case28SizesAfterConversion) {
  EXPECT_EQ(Map(ModelBuilder().M().Half(), {.limits = "0=100 1=200"}), "linear1:0 batchnorm:1 linear2:1");
  const MapRequest request = {.limits = "0=100 1=200"};
  EXPECT_EQ(Map(ModelBuilder().M().Half().Resize("linear1.weight", 48), request), "/:1");
  EXPECT_EQ(Warnings(ModelBuilder().M().Half().Resize("linear1.weight", 48), request), "0 needs 106");
}

// accelerate's map does not cover block.buf.
TEST(InferCase, Case29DirectBufferOfASplitModuleGoesWithItsDirectParameter) {
  ModelBuilder model;
  model.Module("block").Param("block.w", 10).Linear("block.lin", 4, 4).Buffer("block.buf", 6).Linear("out", 4, 4);
  EXPECT_EQ(Map(model, {.limits = "0=160 cpu=1000"}), "block.w:0 block.buf:0 block.lin:cpu out:cpu");
}

}  // namespace
}  // namespace keyload
