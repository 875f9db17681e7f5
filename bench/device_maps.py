"""What the device map policies make of real models: bytes per device and the largest fill, as a table for docs/device_maps.md.

    PYTHONPATH=client/python .venv/bin/python bench/device_maps.py --bin build/release/bin [--only NAME]... [--policy P]...

The models are at their published sizes, from their configurations alone: keyload-manifest writes the manifest, and
`keyload check` plans an empty checkpoint with it for GPUs that need not be here. No weights are involved.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

GIB = 1 << 30

# Published configurations, as far as they decide about keys and shapes; and the GPUs to plan for.
MODELS = {
    "Llama-3-8B": ("2x12GiB", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "tie_word_embeddings": False, "dtype": "bfloat16"}),
    "Llama-3-70B": ("4x40GiB", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
        "tie_word_embeddings": False, "dtype": "bfloat16"}),
    "Mixtral-8x7B": ("4x24GiB", {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_local_experts": 8, "vocab_size": 32000, "tie_word_embeddings": False, "dtype": "bfloat16"}),
    "Qwen3-30B-A3B": ("4x16GiB", {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "vocab_size": 151936, "decoder_sparse_step": 1,
        "mlp_only_layers": [], "tie_word_embeddings": False, "dtype": "bfloat16"}),
    "DeepSeek-V3": ("8x96GiB", {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61, "first_k_dense_replace": 3,
        "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 128, "num_key_value_heads": 128,
        "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "vocab_size": 129280, "tie_word_embeddings": False, "dtype": "bfloat16",
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                "weight_block_size": [128, 128]}}),
    "Gemma-2-9B": ("2x12GiB", {
        "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_size": 3584,
        "intermediate_size": 14336, "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 256, "vocab_size": 256000, "tie_word_embeddings": True, "dtype": "bfloat16"}),
}


def write_manifest(config, directory):
    """The manifest of the model as its checkpoints store it."""
    (directory / "config.json").write_text(json.dumps(config))
    manifest = directory / "model.manifest"  # a name in .bin would be that of weights
    subprocess.run([sys.executable, "-m", "keyload.manifest", directory, "--as-stored", "--dtype", "BF16", "--binary",
                    "--out", manifest], check=True)
    (directory / "config.json").unlink()  # what is planned is an empty checkpoint
    return manifest


def plan(binaries, directory, manifest, policy, gpus):
    out = subprocess.run([binaries / "keyload", "--json", "check", directory, "--manifest", manifest,
                          "--allow-no-weights", "--device-map", policy, "--plan-for", gpus],
                         check=True, stdout=subprocess.PIPE).stdout
    report = json.loads(out)
    return {use["device"]: use["tensorBytes"] + use["missingBytes"] for use in report["devices"]}


def row(name, gpus, policy, placed):
    count, size = gpus.removesuffix("GiB").split("x")
    per_gpu = [placed.pop(f"cuda:{i}", 0) / GIB for i in range(int(count))]
    rest = ", ".join(f"{device} {size / GIB:.1f}" for device, size in placed.items()) or "-"
    cells = [name, gpus, policy, " ".join(f"{used:.1f}" for used in per_gpu), rest,
             f"{100 * max(per_gpu) / int(size):.1f} %"]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="directory of keyload and keyloadd")
    parser.add_argument("--only", action="append", choices=MODELS, help="this model; may be repeated")
    parser.add_argument("--policy", action="append", help="this policy; may be repeated (default auto and packed)")
    arguments = parser.parse_args()
    print("| Model | GPUs | Policy | GiB on each GPU | GiB elsewhere | Largest fill |")
    print("|---|---|---|---|---|---|")
    for name in arguments.only or MODELS:
        gpus, config = MODELS[name]
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory)
            manifest = write_manifest(config, directory)
            for policy in arguments.policy or ["auto", "packed"]:
                print(row(name, gpus, policy, plan(arguments.bin, directory, manifest, policy, gpus)), flush=True)


if __name__ == "__main__":
    main()
