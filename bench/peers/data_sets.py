"""Makes the data sets of the benchmarks, each once: what is there with the right sizes is kept."""

import argparse
import json
import pathlib
import shutil

import safetensors_files
from data_set import DataSet
from deepseek_names import REAL, REDUCED, Tensors, config, deepseek_v3

MAKER_VERSION = 1  # part of the manifest: a change of the sets makes them again
DEEPSEEK_SHARDS = 163
SEED = 20250224


LARGE_SUBSET = "model.layers.5.mlp.up_proj.weight"  # one of 48 tensors: 2 % of the bytes
SMALL_SUBSET = "*.experts.{0..4}.*"                 # five of 256 experts in every layer, so in every shard: 2 %
ONE_EXPERT = "model.layers.10.mlp.experts.7.*"


def large_model() -> Tensors:
    shape = (8192, 5440)
    return {f"model.layers.{layer}.mlp.{part}_proj.weight": ("BF16", shape)
            for layer in range(16) for part in ("gate", "up", "down")}


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632,
    "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32000,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}


def llama_model() -> Tensors:
    hidden, intermediate, vocabulary = 2048, 5632, 32000
    tensors: Tensors = {"model.embed_tokens.weight": ("BF16", (vocabulary, hidden))}
    for layer in range(8):
        prefix = f"model.layers.{layer}"
        for part in ("q", "k", "v", "o"):
            tensors[f"{prefix}.self_attn.{part}_proj.weight"] = ("BF16", (hidden, hidden))
        for part in ("gate", "up"):
            tensors[f"{prefix}.mlp.{part}_proj.weight"] = ("BF16", (intermediate, hidden))
        tensors[f"{prefix}.mlp.down_proj.weight"] = ("BF16", (hidden, intermediate))
        for part in ("input", "post_attention"):
            tensors[f"{prefix}.{part}_layernorm.weight"] = ("BF16", (hidden,))
    return tensors | {"model.norm.weight": ("BF16", (hidden,)), "lm_head.weight": ("BF16", (vocabulary, hidden))}


def _model_manifest(tensors: Tensors) -> str:
    specs = [{"name": name, "kind": "KIND_PARAMETER", "dtype": dtype, "shape": shape}
             for name, (dtype, shape) in tensors.items()]
    return json.dumps({"architecture": "DeepseekV3ForCausalLM", "tensors": specs})


def _write(data: DataSet, tensors: Tensors) -> None:
    if data.name == "empty":
        data.directory.mkdir(parents=True)
        data.manifest.write_text(_model_manifest(tensors))
        return
    shards = {"small": DEEPSEEK_SHARDS, "sparse": DEEPSEEK_SHARDS, "large": 4, "llama": 2}[data.name]
    safetensors_files.write_checkpoint(data.directory, tensors, shards, None if data.name == "sparse" else SEED)
    if data.name != "sparse":
        data.checksums.write_text(json.dumps(safetensors_files.checksums(data.directory)))


MODELS = {
    "small": lambda: (deepseek_v3(REDUCED), config(REDUCED)),
    "large": lambda: (large_model(), {}),
    "sparse": lambda: (deepseek_v3(REAL), config(REAL)),
    # The config is reduced, so that transformers can give the missing keys memory; the manifest has real sizes.
    "empty": lambda: (deepseek_v3(REAL), config(REDUCED)),
    "llama": lambda: (llama_model(), LLAMA),
}


def _sizes(data: DataSet) -> dict[str, int]:
    beside = [path for path in (data.checksums, data.manifest) if path.exists()]
    return {path.name: path.stat().st_size for path in sorted([*data.directory.glob("*"), *beside])}


def make(root: pathlib.Path, name: str) -> DataSet:
    """The set, made if it is absent or not as its list of sizes says."""
    record = root / f"{name}.sizes.json"
    directory = root / name
    if record.exists():
        known = json.loads(record.read_text())
        data = DataSet(name, directory, known["tensors"], known["bytes"])
        if known["version"] == MAKER_VERSION and known["sizes"] == _sizes(data):
            return data
    tensors, configuration = MODELS[name]()
    data = DataSet(name, directory, len(tensors), safetensors_files.total_bytes(tensors))
    print(f"making {name}: {data.tensors:,} tensors, {data.bytes / 1e9:.2f} GB", flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    record.unlink(missing_ok=True)
    _write(data, tensors)
    (directory / "config.json").write_text(json.dumps(configuration, indent=1))
    record.write_text(json.dumps({"version": MAKER_VERSION, "tensors": data.tensors, "bytes": data.bytes,
                                  "sizes": _sizes(data)}))
    return data


def make_all(root: pathlib.Path) -> dict[str, DataSet]:
    root.mkdir(parents=True, exist_ok=True)
    return {name: make(root, name) for name in MODELS}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=pathlib.Path)
    make_all(parser.parse_args().data)
