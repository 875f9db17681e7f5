"""The tensors of DeepSeek-V3: 91,991 names with their dtypes and shapes, at real or at reduced sizes."""

import dataclasses

DTYPE_BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1}
SCALE_BLOCK = 128  # one scale for each block of 128 x 128 fp8 values

Tensor = tuple[str, tuple[int, ...]]  # dtype, shape
Tensors = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The numbers of DeepSeek-V3's config.json that decide about shapes."""

    hidden: int = 7168
    vocabulary: int = 129280
    intermediate: int = 18432
    expert_intermediate: int = 2048
    experts: int = 256
    layers: int = 61
    dense_layers: int = 3
    heads: int = 128
    query_rank: int = 1536
    key_value_rank: int = 512
    nope_head: int = 128
    rope_head: int = 64
    value_head: int = 128


REAL = Sizes()
# The same names in 0.75 GB: an expert's matrix has 16 KiB.
REDUCED = Sizes(hidden=256, vocabulary=1024, intermediate=512, expert_intermediate=64, heads=4, query_rank=64,
                key_value_rank=32, nope_head=32, rope_head=16, value_head=32)


def tensor_bytes(tensor: Tensor) -> int:
    dtype, shape = tensor
    count = DTYPE_BYTES[dtype]
    for dimension in shape:
        count *= dimension
    return count


def total_bytes(tensors: Tensors) -> int:
    return sum(map(tensor_bytes, tensors.values()))


def _fp8(name: str, rows: int, columns: int) -> Tensors:
    scale = (-(-rows // SCALE_BLOCK), -(-columns // SCALE_BLOCK))
    return {f"{name}.weight": ("F8_E4M3", (rows, columns)), f"{name}.weight_scale_inv": ("F32", scale)}


def _mlp(prefix: str, hidden: int, intermediate: int) -> Tensors:
    return {**_fp8(f"{prefix}.gate_proj", intermediate, hidden), **_fp8(f"{prefix}.up_proj", intermediate, hidden),
            **_fp8(f"{prefix}.down_proj", hidden, intermediate)}


def _layer(number: int, sizes: Sizes) -> Tensors:
    prefix = f"model.layers.{number}"
    query_head = sizes.nope_head + sizes.rope_head
    tensors: Tensors = {f"{prefix}.input_layernorm.weight": ("BF16", (sizes.hidden,))}
    attention = f"{prefix}.self_attn"
    tensors |= _fp8(f"{attention}.q_a_proj", sizes.query_rank, sizes.hidden)
    tensors[f"{attention}.q_a_layernorm.weight"] = ("BF16", (sizes.query_rank,))
    tensors |= _fp8(f"{attention}.q_b_proj", sizes.heads * query_head, sizes.query_rank)
    tensors |= _fp8(f"{attention}.kv_a_proj_with_mqa", sizes.key_value_rank + sizes.rope_head, sizes.hidden)
    tensors[f"{attention}.kv_a_layernorm.weight"] = ("BF16", (sizes.key_value_rank,))
    tensors |= _fp8(f"{attention}.kv_b_proj", sizes.heads * (sizes.nope_head + sizes.value_head),
                    sizes.key_value_rank)
    tensors |= _fp8(f"{attention}.o_proj", sizes.hidden, sizes.heads * sizes.value_head)
    tensors[f"{prefix}.post_attention_layernorm.weight"] = ("BF16", (sizes.hidden,))
    if number < sizes.dense_layers:
        return tensors | _mlp(f"{prefix}.mlp", sizes.hidden, sizes.intermediate)
    tensors[f"{prefix}.mlp.gate.weight"] = ("BF16", (sizes.experts, sizes.hidden))
    tensors[f"{prefix}.mlp.gate.e_score_correction_bias"] = ("F32", (sizes.experts,))
    tensors |= _mlp(f"{prefix}.mlp.shared_experts", sizes.hidden, sizes.expert_intermediate)
    for expert in range(sizes.experts):
        tensors |= _mlp(f"{prefix}.mlp.experts.{expert}", sizes.hidden, sizes.expert_intermediate)
    return tensors


def deepseek_v3(sizes: Sizes) -> Tensors:
    """All tensors in model order; the last layer is the one that predicts a further token, as in the released files."""
    tensors: Tensors = {"model.embed_tokens.weight": ("BF16", (sizes.vocabulary, sizes.hidden))}
    for number in range(sizes.layers + 1):
        tensors |= _layer(number, sizes)
    further = f"model.layers.{sizes.layers}"
    for name, shape in (("embed_tokens", (sizes.vocabulary, sizes.hidden)), ("enorm", (sizes.hidden,)),
                        ("hnorm", (sizes.hidden,)), ("eh_proj", (sizes.hidden, 2 * sizes.hidden)),
                        ("shared_head.norm", (sizes.hidden,)),
                        ("shared_head.head", (sizes.vocabulary, sizes.hidden))):
        tensors[f"{further}.{name}.weight"] = ("BF16", shape)
    tensors["model.norm.weight"] = ("BF16", (sizes.hidden,))
    tensors["lm_head.weight"] = ("BF16", (sizes.vocabulary, sizes.hidden))
    return tensors


def config(sizes: Sizes) -> dict[str, object]:
    """The config.json that transformers builds the model of these tensors from."""
    return {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": sizes.hidden,
        "vocab_size": sizes.vocabulary, "intermediate_size": sizes.intermediate,
        "moe_intermediate_size": sizes.expert_intermediate, "n_routed_experts": sizes.experts, "n_shared_experts": 1,
        "num_hidden_layers": sizes.layers, "first_k_dense_replace": sizes.dense_layers,
        "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.heads, "q_lora_rank": sizes.query_rank,
        "kv_lora_rank": sizes.key_value_rank, "qk_nope_head_dim": sizes.nope_head,
        "qk_rope_head_dim": sizes.rope_head, "v_head_dim": sizes.value_head, "n_group": 8, "topk_group": 4,
        "num_experts_per_tok": 8, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }
