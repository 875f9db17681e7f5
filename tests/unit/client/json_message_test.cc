#include "client/cli/json_message.h"

#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "keyload/v1/model_loader.pb.h"

namespace keyload::cli {
namespace {

// Both readers must agree, on the message or on refusing.
void ExpectAsProtobuf(const std::string& text) {
  v1::ModelManifest ours, theirs;
  const auto binary = JsonToBinary(text, ours);
  const bool accepted = binary.ok() && ours.ParseFromString(*binary);
  EXPECT_EQ(accepted, binary.ok());
  EXPECT_EQ(accepted, google::protobuf::util::JsonStringToMessage(text, &theirs).ok()) << text;
  if (accepted) {
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(ours, theirs)) << text << ours.DebugString();
  }
}

TEST(JsonMessage, ReadsAManifest) {
  v1::ModelManifest manifest;
  const auto binary = JsonToBinary(R"({"baseModelPrefix": "bert", "initializer_range": 0.02,
      "tensors": [{"name": "w", "kind": "KIND_PARAMETER", "dtype": "F32", "shape": ["2", 3]}, {"name": "scalar"}],
      "tiedGroups": [{"source": "a", "targets": ["b", "c"]}],
      "conversions": [{"operations": [{"kind": "KIND_STACK", "dims": [-1, "-2", 0]}]}]})",
                                   manifest);
  ASSERT_TRUE(binary.ok() && manifest.ParseFromString(*binary)) << binary.status();
  EXPECT_EQ(manifest.base_model_prefix(), "bert");
  EXPECT_FLOAT_EQ(manifest.initializer_range(), 0.02f);
  EXPECT_EQ(manifest.tensors(0).kind(), v1::TensorSpec::KIND_PARAMETER);
  EXPECT_EQ(manifest.tensors(0).shape(1), 3u);
  EXPECT_EQ(manifest.tied_groups(0).targets(1), "c");
  EXPECT_EQ(manifest.conversions(0).operations(0).dims(1), -2);
}

TEST(JsonMessage, AgreesWithProtobufOnPlainText) {
  for (const char* text : {"{}", R"({"tensors": []})", R"({"initializerRange": 1})", R"({"initializerRange": -3})",
                           R"({"architecture": "\u00e9\n"})", R"({"tensors": [{"shape": [18446744073709551615]}]})",
                           R"({"architecture": "a", "architecture": "b"})"}) {
    ExpectAsProtobuf(text);
  }
}

TEST(JsonMessage, WritesLengthsOfMoreThanOneByte) {
  const std::string name(300, 'n');
  ExpectAsProtobuf(R"({"tensors": [{"name": ")" + name + R"(", "shape": [1, 18446744073709551615]}, {}]})");
  ExpectAsProtobuf(R"({"conversions": [{"sources": [")" + name + R"("], "operations": [{"dims": []}]}]})");
}

TEST(JsonMessage, AgreesWithProtobufOnRareForms) {
  for (const char* text :
       {R"({"architecture": null})", R"({"tensors": null})", R"({"tensors": [{"kind": 1}]})",
        R"({"initializerRange": "0.5"})", R"({"tensors": [{"shape": [2.0]}]})", R"({"initializerRange": 1e300})"}) {
    ExpectAsProtobuf(text);
  }
}

TEST(JsonMessage, AgreesWithProtobufOnWhatDoesNotFit) {
  for (const char* text : {"{",
                           "",
                           R"({"tensors": [{"name": "w"} {"name": "x"}]})",
                           R"({"tensors": [{"name": "w"},]})",
                           R"({"tensors": [{"name": "w"}]]})",
                           R"({"architecture" "a"})",
                           R"({"architecture": "a"},)",
                           "[]",
                           "{} {}",
                           R"({"tensor": []})",
                           R"({"tensors": {}})",
                           R"({"tensors": [[]]})",
                           R"({"architecture": ["a"]})",
                           R"({"architecture": 1})",
                           R"({"tensors": [{"shape": [-1]}]})",
                           R"({"tensors": [{"shape": 1}]})",
                           R"({"tensors": [{"kind": "KIND_NONE"}]})",
                           R"({"tensors": [{"shape": ["x"]}]})",
                           "{\"architecture\": \"\xff\"}",
                           R"({"tensors": [{"shape": [18446744073709551616]}]})"}) {
    ExpectAsProtobuf(text);
  }
}

}  // namespace
}  // namespace keyload::cli
