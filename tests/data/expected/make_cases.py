"""Recreates cases.json: configurations, and what transformers' models of them have in their state dicts.

    python make_cases.py        # needs torch and transformers 4.57, the last version with one module for each expert

A case's digest is the SHA-256 of one line for each key, "NAME 2x3\\n", in the order of the state dict.
"""

import hashlib
import json
import pathlib

import torch
import transformers

DECODER = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
           "num_attention_heads": 4, "num_key_value_heads": 2}
BERT = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
DEEPSEEK = {**DECODER, "num_key_value_heads": 4, "moe_intermediate_size": 8, "n_routed_experts": 12, "n_shared_experts": 2,
            "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4, "v_head_dim": 8, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1}
THREE_LABELS = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}

# As the families' checkpoints are published.
PUBLISHED = [
    ("Llama-3-8B", "LlamaForCausalLM", {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8}),
    ("Mistral-7B-v0.3", "MistralForCausalLM", {
        "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8}),
    ("Mixtral-8x7B", "MixtralForCausalLM", {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8}),
    ("Qwen2.5-7B", "Qwen2ForCausalLM", {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4}),
    ("Qwen3-8B", "Qwen3ForCausalLM", {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}),
    ("Qwen3-30B-A3B", "Qwen3MoeForCausalLM", {
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
        "moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": []}),
    ("Gemma-2-9B", "Gemma2ForCausalLM", {
        "vocab_size": 256000, "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256}),
    ("Phi-3-mini", "Phi3ForCausalLM", {
        "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32}),
    ("GPT-2", "GPT2LMHeadModel", {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}),
    ("BERT-base", "BertForMaskedLM", {
        "vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 512, "type_vocab_size": 2}),
    ("DeepSeek-V2-Lite", "DeepseekV2ForCausalLM", {
        "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408,
        "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "n_routed_experts": 64,
        "n_shared_experts": 2, "first_k_dense_replace": 1, "q_lora_rank": None, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "num_experts_per_tok": 6}),
    ("DeepSeek-V3", "DeepseekV3ForCausalLM", {
        "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
        "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256,
        "n_shared_experts": 1, "first_k_dense_replace": 3, "q_lora_rank": 1536, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}),
]

DECODERS = {"Llama": {}, "Mistral": {}, "Mixtral": {"num_local_experts": 3}, "Qwen2": {}, "Qwen3": {"head_dim": 16},
            "Qwen3Moe": {"num_experts": 3, "moe_intermediate_size": 8}, "Gemma2": {"head_dim": 16},
            "Phi3": {"pad_token_id": 0}}


def small_cases():
    for family, sizes in DECODERS.items():
        for head in ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification"):
            yield f"small {family}{head}", f"{family}{head}", {**DECODER, **sizes, **THREE_LABELS}
        yield f"small {family} tied", f"{family}ForCausalLM", {**DECODER, **sizes, "tie_word_embeddings": True}
        yield f"small {family} untied", f"{family}ForCausalLM", {**DECODER, **sizes, "tie_word_embeddings": False}
    yield "Llama with biases", "LlamaForCausalLM", {**DECODER, "attention_bias": True, "mlp_bias": True}
    yield "Llama with wide heads", "LlamaForCausalLM", {**DECODER, "head_dim": 24}
    yield "Mistral with wide heads", "MistralForCausalLM", {**DECODER, "head_dim": 24}
    yield "Qwen3 with biases", "Qwen3ForCausalLM", {**DECODER, "head_dim": 16, "attention_bias": True}
    yield "Qwen3Moe with dense layers", "Qwen3MoeForCausalLM", {
        **DECODER, **DECODERS["Qwen3Moe"], "num_hidden_layers": 8, "decoder_sparse_step": 2, "mlp_only_layers": [3, 5]}
    yield "Phi3 that rotates a part", "Phi3ForCausalLM", {**DECODER, "pad_token_id": 0, "partial_rotary_factor": 0.75}
    for head in ("LMHeadModel", "Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"):
        labels = {} if head == "ForQuestionAnswering" else THREE_LABELS
        yield f"small GPT2{head}", f"GPT2{head}", {**GPT2, **labels}
    yield "GPT2 with another inner size", "GPT2LMHeadModel", {**GPT2, "n_inner": 40}
    for head in ("Model", "ForMaskedLM", "LMHeadModel", "ForPreTraining", "ForNextSentencePrediction",
                 "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice"):
        labels = THREE_LABELS if head.endswith("eClassification") or head.endswith("nClassification") else {}
        yield f"small Bert{head}", f"Bert{head}", {**BERT, **labels}
    for version in ("V2", "V3"):
        yield f"small Deepseek{version}", f"Deepseek{version}ForCausalLM", DEEPSEEK
        yield f"Deepseek{version} without a query rank", f"Deepseek{version}ForCausalLM", {**DEEPSEEK, "q_lora_rank": None}
        yield f"Deepseek{version} with biases", f"Deepseek{version}ForCausalLM", {**DEEPSEEK, "attention_bias": True}
        yield f"Deepseek{version} headless", f"Deepseek{version}Model", DEEPSEEK


def make_case(name, architecture, sizes):
    model_class = getattr(transformers, architecture)
    config = model_class.config_class(**sizes)
    with torch.device("meta"):
        model = model_class(config)
    lines = [f"{key} {'x'.join(map(str, tensor.shape))}\n" for key, tensor in model.state_dict().items()]
    return {"name": name, "config": {"model_type": config.model_type, "architectures": [architecture], **sizes},
            "keys": len(lines), "sha256": hashlib.sha256("".join(lines).encode()).hexdigest()}


def main():
    transformers.logging.set_verbosity_error()
    cases = [make_case(*case) for case in [*PUBLISHED, *small_cases()]]
    text = "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n"
    pathlib.Path(__file__).with_name("cases.json").write_text(text, encoding="utf-8")
    print(f"{len(cases)} cases of transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
