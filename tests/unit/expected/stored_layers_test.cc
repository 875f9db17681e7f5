#include "server/expected/stored_layers.h"

#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/base/error.h"
#include "server/base/strings.h"
#include "server/expected/derive_manifest.h"
#include "tests/unit/expected/expected_case.h"

namespace keyload {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr int kLayers = 4;
constexpr std::string_view kProjections[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                             "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                             "mlp.down_proj"};

// A checkpoint by its tensors' names, in memory.
class Stored {
 public:
  void Add(std::string name, DType dtype, Shape shape) {
    names_.push_back(std::make_shared<const std::string>(std::move(name)));
    StoredTensor tensor = {.name = *names_.back(), .shape = std::move(shape), .dtype = dtype};
    tensor.bytes = ComputeTensorSize(tensor.dtype, tensor.shape).bytes;
    tensors_.push_back(std::move(tensor));
  }
  void Remove(std::string_view name) {
    std::erase_if(tensors_, [&](const StoredTensor& tensor) { return tensor.name == name; });
  }
  void RemoveBelow(std::string_view module) {
    std::erase_if(tensors_, [&](const StoredTensor& tensor) { return tensor.name.starts_with(module); });
  }
  std::shared_ptr<const CheckpointIndex> Index() const {
    CheckpointIndex::Content content;
    CheckpointHeaders::Content headers;
    content.shards.resize(1);
    headers.tensors = tensors_;
    headers.name_blocks = names_;
    content.headers = std::make_shared<const CheckpointHeaders>(std::move(headers));
    return std::make_shared<const CheckpointIndex>(std::move(content));
  }

 private:
  std::vector<std::shared_ptr<const std::string>> names_;
  std::vector<StoredTensor> tensors_;
};

// A Llama of four layers whose linear layers are as `quantise` stores them.
template <typename Quantise>
Stored Llama(Quantise quantise) {
  Stored stored;
  stored.Add("model.embed_tokens.weight", DType::kBF16, {96, 128});
  for (int i = 0; i < kLayers; ++i) {
    const std::string layer = StrCat("model.layers.", i, ".");
    for (const std::string_view projection : kProjections) {
      const uint64_t rows = projection == "mlp.gate_proj" || projection == "mlp.up_proj" ? 256 : 128;
      quantise(stored, StrCat(layer, projection), rows, projection == "mlp.down_proj" ? 256 : 128);
    }
    stored.Add(layer + "input_layernorm.weight", DType::kBF16, {128});
    stored.Add(layer + "post_attention_layernorm.weight", DType::kBF16, {128});
  }
  stored.Add("model.norm.weight", DType::kBF16, {128});
  stored.Add("lm_head.weight", DType::kBF16, {96, 128});
  return stored;
}

std::string Config(std::string_view more = "") {
  return StrCat(R"({"model_type": "llama", "torch_dtype": "bfloat16", "vocab_size": 96, "hidden_size": 128,
      "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4)",
                more, "}");
}

struct Judged {
  std::string reason;  // of an error; empty: none
  std::string warning;
  std::vector<std::string> missing, unexpected, mismatched;
};

Judged Judge(const Stored& stored, const std::string& json) {
  const auto index = stored.Index();
  const auto config = ParseConfigJson(json, "config.json");
  const auto derived = DeriveKeys(*config, "config.json", {SourceTemplates()}, *index);
  if (!derived.ok()) return {.reason = std::string(ReasonName(ErrorReason(derived.status())))};
  Judged judged = {.reason = "", .warning = derived->warning};
  for (const TensorSpec& tensor : derived->manifest->tensors) {
    const int64_t at = index->Find(tensor.name);
    if (at < 0 && tensor.kind != TensorKind::kNonPersistentBuffer) judged.missing.push_back(tensor.name);
    if (at >= 0 && index->tensors()[at].shape != tensor.shape) judged.mismatched.push_back(tensor.name);
  }
  for (const StoredTensor& tensor : index->tensors()) {
    const auto named = [&](const TensorSpec& other) { return other.name == tensor.name; };
    const auto& all = derived->manifest->tensors;
    if (std::none_of(all.begin(), all.end(), named)) judged.unexpected.emplace_back(tensor.name);
  }
  return judged;
}

void ExpectWhole(const Stored& stored, const std::string& json) {
  const Judged judged = Judge(stored, json);
  EXPECT_EQ(judged.reason, "");
  EXPECT_THAT(judged.missing, IsEmpty());
  EXPECT_THAT(judged.unexpected, IsEmpty());
  EXPECT_THAT(judged.mismatched, IsEmpty());
}

// It is whole, and each single removal below a layer is the one that is missing.
void ExpectJudged(const Stored& stored, const std::string& json, std::vector<std::string> suffixes) {
  ExpectWhole(stored, json);
  for (const std::string& suffix : suffixes) {
    Stored damaged = stored;
    const std::string gone = StrCat("model.layers.2.self_attn.v_proj.", suffix);
    damaged.Remove(gone);
    EXPECT_THAT(Judge(damaged, json).missing, testing::ElementsAre(gone));
  }
  Stored damaged = stored;
  damaged.RemoveBelow("model.layers.1.mlp.up_proj.");
  EXPECT_EQ(Judge(damaged, json).missing.size(), suffixes.size());
}

void Nf4(Stored& stored, const std::string& layer, uint64_t rows, uint64_t columns) {
  stored.Add(layer + ".weight", DType::kU8, {rows * columns / 2, 1});
  stored.Add(layer + ".weight.absmax", DType::kU8, {rows * columns / 64});
  stored.Add(layer + ".weight.quant_map", DType::kF32, {16});
  stored.Add(layer + ".weight.nested_absmax", DType::kF32, {rows * columns / 64 / 256 + 1});
  stored.Add(layer + ".weight.nested_quant_map", DType::kF32, {256});
  stored.Add(layer + ".weight.quant_state.bitsandbytes__nf4", DType::kU8, {100 + rows % 7});
}

TEST(StoredLayers, BitsAndBytesNf4) {
  ExpectJudged(Llama(Nf4), Config(R"(, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true})"),
               {"weight", "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",
                "weight.quant_state.bitsandbytes__nf4"});
}

TEST(StoredLayers, BitsAndBytesInt8) {
  const auto int8 = [](Stored& stored, const std::string& layer, uint64_t rows, uint64_t columns) {
    stored.Add(layer + ".weight", DType::kI8, {rows, columns});
    stored.Add(layer + ".SCB", DType::kF32, {rows});
    stored.Add(layer + ".weight_format", DType::kU8, {});
  };
  ExpectJudged(Llama(int8),
               Config(R"(, "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true})"),
               {"weight", "SCB", "weight_format"});
}

void Fp8(Stored& stored, const std::string& layer, uint64_t rows, uint64_t columns) {
  stored.Add(layer + ".weight", DType::kF8E4M3, {rows, columns});
  stored.Add(layer + ".weight_scale", DType::kF32, {});
  stored.Add(layer + ".input_scale", DType::kF32, {});
}

TEST(StoredLayers, StaticFp8UnderTheNamesOfOtherTools) {
  for (const char* config : {R"(, "quantization_config": {"quant_method": "fp8", "activation_scheme": "static",
                                   "ignored_layers": ["lm_head"]})",
                             R"(, "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"})",
                             R"(, "quantization_config": {"producer": {"name": "modelopt"}, "quantization": {}})", ""})
    ExpectJudged(Llama(Fp8), Config(config), {"weight", "weight_scale", "input_scale"});
}

TEST(StoredLayers, ModelOptNvFp4WithScalesOfTheCache) {
  const auto nvfp4 = [](Stored& stored, const std::string& layer, uint64_t rows, uint64_t columns) {
    stored.Add(layer + ".weight", DType::kU8, {rows, columns / 2});
    stored.Add(layer + ".weight_scale", DType::kF8E4M3, {rows, columns / 16});
    stored.Add(layer + ".weight_scale_2", DType::kF32, {});
    stored.Add(layer + ".input_scale", DType::kF32, {});
    if (layer.ends_with("k_proj")) stored.Add(layer + ".k_scale", DType::kF32, {});
    if (layer.ends_with("v_proj")) stored.Add(layer + ".v_scale", DType::kF32, {});
  };
  ExpectWhole(Llama(nvfp4), Config());
  ExpectWhole(Llama(nvfp4), Config(R"(, "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"})"));
}

void Mlx(Stored& stored, const std::string& layer, uint64_t rows, uint64_t columns) {
  stored.Add(layer + ".weight", DType::kU32, {rows, columns / 8});
  stored.Add(layer + ".scales", DType::kF16, {rows, columns / 64});
  stored.Add(layer + ".biases", DType::kF16, {rows, columns / 64});
}

TEST(StoredLayers, MlxWithItsEmbeddings) {
  const std::string config = Config(R"(, "quantization": {"group_size": 64, "bits": 4})");
  ExpectJudged(Llama(Mlx), config, {"weight", "scales", "biases"});
  Stored all = Llama(Mlx);
  all.Remove("model.embed_tokens.weight");
  all.Remove("lm_head.weight");
  Mlx(all, "model.embed_tokens", 96, 128);
  const std::string tied = Config(R"(, "tie_word_embeddings": true, "quantization": {"group_size": 64, "bits": 4})");
  ExpectWhole(all, tied);
  Mlx(all, "lm_head", 96, 128);
  ExpectWhole(all, tied);
  ExpectWhole(all, config);
}

void Gptq(Stored& stored, const std::string& layer, uint64_t rows, uint64_t columns) {
  stored.Add(layer + ".qweight", DType::kI32, {columns / 8, rows});
  stored.Add(layer + ".qzeros", DType::kI32, {columns / 128, rows / 8});
  stored.Add(layer + ".scales", DType::kF16, {columns / 128, rows});
  stored.Add(layer + ".g_idx", DType::kI32, {columns});
}
constexpr char kGptq[] = R"(, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128})";

TEST(StoredLayers, GptqWithBiasesThatTheModelHasNot) {
  const auto biased = [](Stored& stored, const std::string& layer, uint64_t rows, uint64_t columns) {
    Gptq(stored, layer, rows, columns);
    stored.Add(layer + ".bias", DType::kF16, {rows});
  };
  ExpectWhole(Llama(biased), Config(kGptq));
  EXPECT_EQ(Judge(Llama(Gptq), Config(kGptq)).warning, "");  // as the template says
  Stored damaged = Llama(biased);
  damaged.Remove("model.layers.2.mlp.up_proj.qzeros");
  EXPECT_THAT(Judge(damaged, Config(kGptq)).missing, testing::ElementsAre("model.layers.2.mlp.up_proj.qzeros"));
}

TEST(StoredLayers, AConfigurationThatIsSilent) {
  ExpectJudged(Llama(Gptq), Config(), {"qweight", "qzeros", "scales", "g_idx"});
  EXPECT_THAT(Judge(Llama(Gptq), Config()).warning,
              HasSubstr("does not say that weights are quantised; 28 of 30 layers"));
}

TEST(StoredLayers, AwqInTheSpellingOfItsOwnFile) {
  const auto awq = [](Stored& stored, const std::string& layer, uint64_t rows, uint64_t columns) {
    stored.Add(layer + ".qweight", DType::kI32, {columns, rows / 8});
    stored.Add(layer + ".qzeros", DType::kI32, {columns / 64, rows / 8});
    stored.Add(layer + ".scales", DType::kF16, {columns / 64, rows});
  };
  const std::string config =
      Config(R"(, "quantization_config": {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "version": "GEMM"})");
  ExpectJudged(Llama(awq), config, {"qweight", "qzeros", "scales"});
  EXPECT_EQ(Judge(Llama(awq), config).warning, "");
  ExpectWhole(Llama(awq), Config(R"(, "quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemv"})"));
}

TEST(StoredLayers, CompressedTensorsUnderItsFormerName) {
  const auto packed = [](Stored& stored, const std::string& layer, uint64_t rows, uint64_t columns) {
    stored.Add(layer + ".weight", DType::kF8E4M3, {rows, columns});
    stored.Add(layer + ".weight_scale", DType::kBF16, {rows, 1});
  };
  const std::string config = Config(R"(, "compression_config": {"quant_method": "compressed-tensors",
      "format": "float-quantized", "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"],
      "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}, "input_activations": null}}})");
  ExpectJudged(Llama(packed), config, {"weight", "weight_scale"});
  EXPECT_EQ(Judge(Llama(packed), config).warning, "");
}

TEST(StoredLayers, LayersThatStayInFloatingPointAreThoseThatDo) {
  int layers = 0;
  const auto some = [&](Stored& stored, const std::string& layer, uint64_t rows, uint64_t columns) {
    if (++layers % 3 == 0) {
      stored.Add(layer + ".weight", DType::kBF16, {rows, columns});
    } else {
      Nf4(stored, layer, rows, columns);
    }
  };
  ExpectWhole(Llama(some), Config(R"(, "quantization_config": {"quant_method": "bitsandbytes"})"));
}

TEST(StoredLayers, OtherNamesAreNotUnderstood) {
  const auto fused = [](Stored& stored, const std::string& layer, uint64_t rows, uint64_t columns) {
    Mlx(stored, layer.substr(0, layer.rfind('.')) + ".switch" + layer.substr(layer.rfind('.')), rows, columns);
  };
  EXPECT_EQ(Judge(Llama(fused), Config(R"(, "quantization": {"bits": 4})")).reason, "CONFIG_NOT_SUPPORTED");
}

TEST(StoredLayers, WhatIsNotQuantisedIsJudgedAsBefore) {
  const auto plain = [](Stored& stored, const std::string& layer, uint64_t rows, uint64_t columns) {
    stored.Add(layer + ".weight", DType::kBF16, {rows, columns});
  };
  Stored stored = Llama(plain);
  ExpectJudged(stored, Config(), {"weight"});
  stored.Add("model.position_ids", DType::kI32, {1, 512});
  stored.Remove("model.layers.3.mlp.up_proj.weight");
  EXPECT_THAT(Judge(stored, Config()).missing, testing::ElementsAre("model.layers.3.mlp.up_proj.weight"));
  EXPECT_EQ(Judge(stored, Config()).warning, "");
  EXPECT_EQ(Judge(Llama(plain), Config(R"(, "quantization_config": {"quant_method": "bitsandbytes"})")).reason,
            "CONFIG_NOT_SUPPORTED");
}

// Further prediction layers are quantised too, and no reason to give up.
TEST(StoredLayers, MoreLayersThanTheModelHasAreNoOtherNames) {
  Stored stored = Llama(Fp8);
  for (const std::string_view projection : kProjections) Fp8(stored, StrCat("model.layers.4.", projection), 128, 128);
  stored.RemoveBelow("model.layers.1.self_attn.q_proj.");
  EXPECT_EQ(Judge(stored, Config()).missing.size(), 3u);
}

}  // namespace
}  // namespace keyload
