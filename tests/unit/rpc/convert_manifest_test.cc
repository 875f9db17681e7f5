#include "server/rpc/convert_manifest.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include "server/base/error.h"

namespace keyload {
namespace {

using testing::ElementsAre;

v1::ModelManifest Message() {
  v1::ModelManifest message;
  message.set_architecture("Net");
  message.set_base_model_prefix("bert");
  v1::Module& module = *message.add_modules();
  module.set_name("layers.0");
  module.set_class_name("Layer");
  for (const auto& [name, kind] : {std::pair("layers.0.weight", v1::TensorSpec::KIND_UNSPECIFIED),
                                   std::pair("layers.0.mean", v1::TensorSpec::KIND_BUFFER),
                                   std::pair("layers.0.positions", v1::TensorSpec::KIND_NON_PERSISTENT_BUFFER),
                                   std::pair("head.weight", v1::TensorSpec::KIND_PARAMETER)}) {
    v1::TensorSpec& tensor = *message.add_tensors();
    tensor.set_name(name);
    tensor.set_kind(kind);
    tensor.set_dtype("BF16");
    tensor.add_shape(2);
    tensor.add_shape(3);
  }
  v1::TiedGroup& tied = *message.add_tied_groups();
  tied.set_source("layers.0.weight");
  tied.add_targets("head.weight");
  message.add_no_split_modules("Layer");
  message.add_keep_in_fp32("norm");
  message.add_ignore_missing("im");
  message.add_ignore_unexpected("iu");
  v1::Rename& rename = *message.add_renames();
  rename.set_pattern("gamma");
  rename.set_replacement("weight");
  message.set_initializer_range(0.5);
  return message;
}

void ExpectMessage(const Manifest& manifest) {
  EXPECT_EQ(manifest.architecture, "Net");
  EXPECT_EQ(manifest.base_model_prefix, "bert");
  ASSERT_EQ(manifest.modules.size(), 1);
  EXPECT_EQ(manifest.modules[0].name, "layers.0");
  EXPECT_EQ(manifest.modules[0].class_name, "Layer");
  ASSERT_EQ(manifest.tensors.size(), 4);
  EXPECT_EQ(manifest.tensors[0].name, "layers.0.weight");
  EXPECT_EQ(manifest.tensors[0].kind, TensorKind::kParameter);
  EXPECT_EQ(manifest.tensors[0].dtype, DType::kBF16);
  EXPECT_THAT(manifest.tensors[0].shape, ElementsAre(2, 3));
  EXPECT_EQ(manifest.tensors[0].bytes, 12);
  EXPECT_EQ(manifest.tensors[1].kind, TensorKind::kBuffer);
  EXPECT_EQ(manifest.tensors[2].kind, TensorKind::kNonPersistentBuffer);
  EXPECT_EQ(manifest.tensors[3].kind, TensorKind::kParameter);
  ASSERT_EQ(manifest.tied_groups.size(), 1);
  EXPECT_EQ(manifest.tied_groups[0].source, "layers.0.weight");
  EXPECT_THAT(manifest.tied_groups[0].targets, ElementsAre("head.weight"));
  EXPECT_THAT(manifest.no_split_modules, ElementsAre("Layer"));
  EXPECT_THAT(manifest.keep_in_fp32, ElementsAre("norm"));
  EXPECT_THAT(manifest.ignore_missing, ElementsAre("im"));
  EXPECT_THAT(manifest.ignore_unexpected, ElementsAre("iu"));
  ASSERT_EQ(manifest.renames.size(), 1);
  EXPECT_EQ(manifest.renames[0].pattern, "gamma");
  EXPECT_EQ(manifest.renames[0].replacement, "weight");
}

TEST(ParseManifest, ReadsBinary) {
  const auto manifest = ParseManifest(Message().SerializeAsString());
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  ExpectMessage(**manifest);
}

TEST(ParseManifest, ReadsJson) {
  std::string json;
  ASSERT_TRUE(google::protobuf::util::MessageToJsonString(Message(), &json).ok());
  const auto manifest = ParseManifest(json);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  ExpectMessage(**manifest);
}

TEST(ParseManifest, JsonMayBeginWithSpace) {
  EXPECT_TRUE(ParseManifest("\n  {\"tensors\": [{\"name\": \"w\", \"dtype\": \"F32\"}]}").ok());
}

TEST(ParseManifest, JsonMayUseTheNamesOfTheProto) {
  const auto manifest = ParseManifest(R"({"base_model_prefix": "bert", "tensors": [{"name": "w", "dtype": "F32"}]})");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ((*manifest)->base_model_prefix, "bert");
}

class BrokenManifest : public testing::TestWithParam<const char*> {};

TEST_P(BrokenManifest, IsInvalid) {
  const absl::Status status = ParseManifest(GetParam()).status();
  EXPECT_EQ(ErrorReason(status), Reason::kManifestInvalid) << status;
}

INSTANTIATE_TEST_SUITE_P(
    All, BrokenManifest,
    testing::Values("{", "{\"tensors\": 1}", "{\"nonsense\": 1}", "no manifest at all", "[]",
                    R"({"tensors": [{"name": "a", "dtype": "float32"}]})", R"({"tensors": [{"name": "a"}]})",
                    R"({"tensors": [{"name": "", "dtype": "F32"}]})",
                    R"({"tensors": [{"name": "a", "dtype": "F32"}, {"name": "a", "dtype": "F32"}]})",
                    R"({"tensors": [{"name": "a", "dtype": "F32", "shape": ["4294967296", "4294967296", "2"]}]})",
                    R"({"tensors": [{"name": "a", "dtype": "F32", "shape": [-1]}]})",
                    R"({"tensors": [{"name": "a", "dtype": "F32", "kind": 9}]})",
                    R"({"tied_groups": [{"source": "a", "targets": ["b"]}]})"));

TEST(ParseManifest, ATruncatedBinaryIsInvalid) {
  std::string bytes = Message().SerializeAsString();
  bytes.resize(bytes.size() / 2);
  EXPECT_EQ(ErrorReason(ParseManifest(bytes).status()), Reason::kManifestInvalid);
}

TEST(ParseManifest, AnUnknownDtypeNamesTheTensor) {
  const absl::Status status = ParseManifest(R"({"tensors": [{"name": "a.b", "dtype": "float32"}]})").status();
  EXPECT_EQ(ErrorDetails(status)["key"], "a.b");
  EXPECT_EQ(ErrorDetails(status)["dtype"], "float32");
}

TEST(ParseManifest, ReadsAndWritesConversions) {
  v1::ModelManifest message = Message();
  v1::Conversion& conversion = *message.add_conversions();
  conversion.add_sources("experts.*.gate.weight");
  conversion.add_sources("experts.*.up.weight");
  conversion.add_targets("experts.gate_up");
  for (const auto kind : {v1::Conversion::Operation::KIND_STACK, v1::Conversion::Operation::KIND_CONCATENATE}) {
    v1::Conversion::Operation& operation = *conversion.add_operations();
    operation.set_kind(kind);
    operation.add_dims(kind == v1::Conversion::Operation::KIND_STACK ? 0 : -2);
  }
  const auto manifest = ParseManifest(message.SerializeAsString());
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  ASSERT_EQ((*manifest)->conversions.size(), 1);
  const Conversion& read = (*manifest)->conversions[0];
  EXPECT_THAT(read.sources, ElementsAre("experts.*.gate.weight", "experts.*.up.weight"));
  EXPECT_THAT(read.targets, ElementsAre("experts.gate_up"));
  ASSERT_EQ(read.operations.size(), 2);
  EXPECT_EQ(read.operations[0].kind, OperationKind::kStack);
  EXPECT_EQ(read.operations[1].kind, OperationKind::kConcatenate);
  EXPECT_THAT(read.operations[1].dims, ElementsAre(-2));
  EXPECT_EQ(ToProto(**manifest).conversions(0).SerializeAsString(), conversion.SerializeAsString());
}

TEST(ParseManifest, AnUnknownOperationIsRefusedByName) {
  v1::ModelManifest message = Message();
  v1::Conversion& conversion = *message.add_conversions();
  conversion.add_sources("a");
  conversion.add_targets("head.weight");
  for (const int kind : {0, 77}) {
    conversion.clear_operations();
    conversion.add_operations()->set_kind(static_cast<v1::Conversion::Operation::Kind>(kind));
    const absl::Status status = ParseManifest(message.SerializeAsString()).status();
    EXPECT_EQ(ErrorReason(status), Reason::kManifestInvalid);
    EXPECT_EQ(ErrorDetails(status)["field"], "manifest.conversions[0]");
    EXPECT_NE(status.message().find("(to head.weight)"), std::string::npos) << status;
  }
}

TEST(ParseManifest, RefusesOneWithoutTensors) {
  for (const char* bytes : {"", "{}"}) EXPECT_EQ(ErrorReason(ParseManifest(bytes).status()), Reason::kManifestInvalid);
}

TEST(ParseManifest, JsonThatIsNestedWithoutEndIsRefused) {
  const absl::Status status = ParseManifest("{\"tensors\":" + std::string(1'000'000, '[')).status();
  EXPECT_EQ(ErrorReason(status), Reason::kManifestInvalid);
  EXPECT_NE(status.message().find("levels"), absl::string_view::npos) << status;
}

TEST(ParseManifest, BracketsWithinStringsAreNoLevels) {
  const std::string name = "a" + std::string(100, '[') + "\\\"{";
  const auto manifest = ParseManifest(R"({"tensors":[{"name":")" + name + R"(","dtype":"F32","shape":["1"]}]})");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ((*manifest)->tensors[0].name, "a" + std::string(100, '[') + "\"{");
}

TEST(ManifestParseBytes, JsonIsCountedByItsObjectsAndValues) {
  const std::string object = R"({"name":"layers.0.weight","dtype":"F32","shape":["1","2"]},)";
  std::string many = "{\"tensors\":[";
  for (int i = 0; i < 1000; ++i) many += object;
  const uint64_t bytes = ManifestParseBytes(many);
  EXPECT_GT(bytes, 1000 * (sizeof(v1::TensorSpec) + object.size()));
  EXPECT_LT(bytes, 30 * many.size()) << "a text of mostly strings does not become a hundred times as much";
}

}  // namespace
}  // namespace keyload
