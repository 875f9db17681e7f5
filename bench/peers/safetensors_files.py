"""Writes safetensors checkpoints of random or absent data, and hashes their tensors by plain reading."""

import collections.abc
import json
import pathlib
import struct

import numpy
import xxhash

from data_set import shard_files
from deepseek_names import DTYPE_BYTES, Tensors, tensor_bytes, total_bytes

BLOCK_BYTES = 64 * 1024 * 1024
INDEX_NAME = "model.safetensors.index.json"


def in_file_order(tensors: Tensors) -> Tensors:
    """As the safetensors package writes them: the widest dtype first, then by name."""
    return dict(sorted(tensors.items(), key=lambda item: (-DTYPE_BYTES[item[1][0]], item[0])))


def header(tensors: Tensors) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor_bytes(tensor)
        entries[name] = {"dtype": tensor[0], "shape": tensor[1], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def shards_of(tensors: Tensors, count: int) -> collections.abc.Iterator[tuple[str, Tensors]]:
    """Cuts the model in order into `count` files of about the same bytes."""
    total, done, shard = total_bytes(tensors), 0, 0
    parts: list[Tensors] = [{} for _ in range(count)]
    for name, tensor in tensors.items():
        shard = max(shard, min(done * count // total, count - 1))
        parts[shard][name] = tensor
        done += tensor_bytes(tensor)
    for number, part in enumerate(parts, start=1):
        yield f"model-{number:05d}-of-{count:05d}.safetensors", in_file_order(part)


def write_checkpoint(directory: pathlib.Path, tensors: Tensors, shards: int, seed: int | None) -> None:
    """Random bytes from `seed`, or holes without one."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = numpy.random.default_rng(seed)
    weight_map: dict[str, str] = {}
    for file_name, part in shards_of(tensors, shards):
        with open(directory / file_name, "wb") as file:
            file.write(header(part))
            left = total_bytes(part)
            if seed is None:
                file.truncate(file.tell() + left)
                left = 0
            while left > 0:
                block = generator.bytes(min(left, BLOCK_BYTES))
                file.write(block)
                left -= len(block)
        weight_map |= dict.fromkeys(part, file_name)
    index = {"metadata": {"total_size": total_bytes(tensors)}, "weight_map": weight_map}
    (directory / INDEX_NAME).write_text(json.dumps(index))


def checksums(directory: pathlib.Path) -> dict[str, str]:
    """XXH3 of every tensor, with nothing but open, seek and read: the reference of all engines."""
    sums: dict[str, str] = {}
    for path in shard_files(directory):
        with open(path, "rb") as file:
            head_bytes = struct.unpack("<Q", file.read(8))[0]
            entries = json.loads(file.read(head_bytes))
            entries.pop("__metadata__", None)
            for name, entry in entries.items():
                begin, end = entry["data_offsets"]
                file.seek(8 + head_bytes + begin)
                sums[name] = xxhash.xxh3_64_hexdigest(file.read(end - begin))
    return sums
