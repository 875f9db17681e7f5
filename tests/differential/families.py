"""The architectures at sizes that take no time, and checkpoints of them."""

import copy
import dataclasses

import torch
import transformers

_DECODER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 32, "max_position_embeddings": 16}
_DEEPSEEK = {**_DECODER, "num_key_value_heads": 2, "moe_intermediate_size": 8, "n_routed_experts": 4,
             "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "kv_lora_rank": 8,
             "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "n_group": 2, "topk_group": 1}


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    name: str
    config: str
    head: str
    base: str
    sizes: dict
    layers: str = "num_hidden_layers"
    width: tuple = ("intermediate_size",)  # what a checkpoint of another shape has otherwise

    def make_config(self, tied, **changes):
        kind = getattr(transformers, self.config)
        config = kind(**{**self.sizes, "tie_word_embeddings": tied, "architectures": [self.head], **changes})
        config.dtype = "float32"
        return config

    def with_layers(self, more):
        return {self.layers: self.sizes[self.layers] + more}

    def with_other_shapes(self):
        return {name: self.sizes[name] + 8 for name in self.width}


FAMILIES = (
    Family("llama", "LlamaConfig", "LlamaForCausalLM", "LlamaModel", _DECODER),
    Family("mistral", "MistralConfig", "MistralForCausalLM", "MistralModel", _DECODER),
    Family("mixtral", "MixtralConfig", "MixtralForCausalLM", "MixtralModel",
           {**_DECODER, "num_local_experts": 3, "num_experts_per_tok": 2}),
    Family("qwen2", "Qwen2Config", "Qwen2ForCausalLM", "Qwen2Model", _DECODER),
    Family("qwen3", "Qwen3Config", "Qwen3ForCausalLM", "Qwen3Model", {**_DECODER, "head_dim": 8}),
    Family("qwen3_moe", "Qwen3MoeConfig", "Qwen3MoeForCausalLM", "Qwen3MoeModel",
           {**_DECODER, "head_dim": 8, "num_experts": 11, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
            "decoder_sparse_step": 1, "mlp_only_layers": []}, width=("moe_intermediate_size",)),
    Family("gemma2", "Gemma2Config", "Gemma2ForCausalLM", "Gemma2Model", {**_DECODER, "head_dim": 8}),
    Family("phi3", "Phi3Config", "Phi3ForCausalLM", "Phi3Model", {**_DECODER, "pad_token_id": 0}),
    Family("gpt2", "GPT2Config", "GPT2LMHeadModel", "GPT2Model",
           {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 32, "n_positions": 16, "n_inner": 24},
           layers="n_layer", width=("n_inner",)),
    Family("bert", "BertConfig", "BertForMaskedLM", "BertModel",
           {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": 32, "max_position_embeddings": 16}),
    Family("deepseek_v2", "DeepseekV2Config", "DeepseekV2ForCausalLM", "DeepseekV2Model",
           {**_DEEPSEEK, "q_lora_rank": None, "topk_method": "greedy"},
           width=("intermediate_size", "moe_intermediate_size")),
    Family("deepseek_v3", "DeepseekV3Config", "DeepseekV3ForCausalLM", "DeepseekV3Model",
           {**_DEEPSEEK, "q_lora_rank": 8}, width=("intermediate_size", "moe_intermediate_size")),
)

# A language model within a larger one: prefixes are added and taken away, and renamings keep to a part.
COMPOSITES = (
    Family("qwen2_vl", "Qwen2VLConfig", "Qwen2VLForConditionalGeneration", "Qwen2VLModel",
           {"text_config": {**_DECODER, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2],
                                                            "rope_theta": 1e4}},
            "vision_config": {"depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2}}),
    Family("llava", "LlavaConfig", "LlavaForConditionalGeneration", "LlavaModel",
           {"text_config": {**_DECODER, "model_type": "llama"},
            "vision_config": {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24,
                              "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}}),
)


def save(directory, config, kind):
    """A checkpoint of a model of class `kind`, as transformers writes it."""
    torch.manual_seed(1)
    getattr(transformers, kind)(copy.deepcopy(config)).save_pretrained(directory)


def loading_info(directory, config, kind):
    """transformers' three sets for `directory` read into a model of class `kind`."""
    model_class = getattr(transformers, kind)
    _, info = model_class.from_pretrained(directory, config=copy.deepcopy(config), output_loading_info=True,
                                          ignore_mismatched_sizes=True)
    return info
