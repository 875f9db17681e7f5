"""One load by one peer in a process of its own: peer_load.py ENGINE DIRECTORY. Prints one JSON object.

Imports are timed apart. `handle` ends when the call has returned, `usable` when every byte of every tensor was hashed;
the hashes are compared after that.
"""

import argparse
import collections.abc
import dataclasses
import fnmatch
import importlib
import json
import os
import pathlib
import time

import xxhash

import processes
from data_set import shard_files

INDEX_NAME = "model.safetensors.index.json"
Tensors = dict  # name -> torch.Tensor; torch is imported when the engine is known


def _safe_load(directory: pathlib.Path, backend: str) -> Tensors:
    from safetensors.torch import load_file

    tensors: Tensors = {}
    for path in shard_files(directory):
        tensors |= load_file(path, backend=backend)
    return tensors


def safetensors_mmap(directory: pathlib.Path, _keys: str | None) -> Tensors:
    return _safe_load(directory, "mmap")


def safetensors_pread(directory: pathlib.Path, _keys: str | None) -> Tensors:
    return _safe_load(directory, "pread")


def safetensors_clone(directory: pathlib.Path, _keys: str | None) -> Tensors:
    return {name: tensor.clone() for name, tensor in _safe_load(directory, "mmap").items()}


def safe_open_subset(directory: pathlib.Path, keys: str | None) -> Tensors:
    """What its users write for some keys: the index says the shard, each tensor is got and cloned."""
    from safetensors import safe_open

    weight_map = json.loads((directory / INDEX_NAME).read_text())["weight_map"]
    by_file: dict[str, list[str]] = {}
    for name in match(weight_map, keys):
        by_file.setdefault(weight_map[name], []).append(name)
    tensors: Tensors = {}
    for file_name, names in by_file.items():
        with safe_open(directory / file_name, framework="pt") as file:
            tensors |= {name: file.get_tensor(name).clone() for name in names}
    return tensors


def headers_only(directory: pathlib.Path, _keys: str | None) -> Tensors:
    """Every key with its dtype and shape, no tensor: what a plan needs."""
    from safetensors import safe_open

    found: Tensors = {}
    for path in shard_files(directory):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                part = file.get_slice(name)
                found[name] = (part.get_dtype(), part.get_shape())
    return found


def fastsafetensors(directory: pathlib.Path, _keys: str | None, disable_cache: bool = True) -> Tensors:
    from fastsafetensors import SafeTensorsFileLoader

    loader = SafeTensorsFileLoader(None, "cpu", nogds=True, disable_cache=disable_cache)
    loader.add_filenames({0: [str(path) for path in shard_files(directory)]})
    buffers = loader.copy_files_to_device()
    _KEPT.extend((loader, buffers))
    return {name: buffers.get_tensor(name) for name in loader.get_keys()}


def runai_model_streamer(directory: pathlib.Path, keys: str | None) -> Tensors:
    from runai_model_streamer import SafetensorsStreamer

    names = None
    if keys is not None:
        index = json.loads((directory / INDEX_NAME).read_text())
        names = match(index["weight_map"], keys)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in shard_files(directory)], tensor_names=names)
        return dict(streamer.get_tensors())  # owned=True, its default: each tensor is the caller's


def fastsafetensors_cached(directory: pathlib.Path, keys: str | None) -> Tensors:
    return fastsafetensors(directory, keys, disable_cache=False)


def torch_load_mmap(directory: pathlib.Path, _keys: str | None) -> Tensors:
    import torch

    tensors: Tensors = {}
    for path in sorted(directory.glob("*.pt")):
        tensors |= torch.load(path, mmap=True, weights_only=True)
    return tensors


def torch_load(directory: pathlib.Path, _keys: str | None) -> Tensors:
    import torch

    tensors: Tensors = {}
    for path in sorted(directory.glob("*.pt")):
        tensors |= torch.load(path, weights_only=True)
    return tensors


def from_pretrained(directory: pathlib.Path, _keys: str | None) -> Tensors:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype="bfloat16")
    _KEPT.append(model)
    return model.state_dict()


def from_pretrained_empty(directory: pathlib.Path, _keys: str | None) -> Tensors:
    """A state dictionary without a key: every key of the model is missing."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory)
    kind = getattr(transformers, config.architectures[0])
    model = kind.from_pretrained(None, config=config, state_dict={}, dtype="bfloat16")
    _KEPT.append(model)
    return model.state_dict()


_KEPT: list[object] = []  # what the tensors' memory belongs to


def match(names: collections.abc.Iterable[str], keys: str | None) -> list[str]:
    """The names that a glob of keyload's matches: fnmatch's, and {a..b}."""
    if keys is None:
        return list(names)
    before, _, rest = keys.partition("{")
    patterns = [keys]
    if rest:
        numbers, _, after = rest.partition("}")
        first, last = map(int, numbers.split(".."))
        patterns = [f"{before}{number}{after}" for number in range(first, last + 1)]
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


@dataclasses.dataclass(frozen=True)
class Engine:
    imports: tuple[str, ...]
    load: collections.abc.Callable[[pathlib.Path, str | None], Tensors]


_SAFETENSORS = ("torch", "safetensors.torch")
_TRANSFORMERS = ("torch", "transformers", "transformers.modeling_utils")
ENGINES = {
    "safetensors-mmap": Engine(_SAFETENSORS, safetensors_mmap),
    "safetensors-pread": Engine(_SAFETENSORS, safetensors_pread),
    "safetensors-clone": Engine(_SAFETENSORS, safetensors_clone),
    "safe_open-subset": Engine(_SAFETENSORS, safe_open_subset),
    "safe_open-headers": Engine(_SAFETENSORS, headers_only),
    "fastsafetensors": Engine(("torch", "fastsafetensors"), fastsafetensors),
    "fastsafetensors-cached": Engine(("torch", "fastsafetensors"), fastsafetensors_cached),
    "runai-model-streamer": Engine(("torch", "runai_model_streamer"), runai_model_streamer),
    "torch.load-mmap": Engine(("torch",), torch_load_mmap),
    "torch.load": Engine(("torch",), torch_load),
    "from_pretrained": Engine(_TRANSFORMERS, from_pretrained),
    "from_pretrained-empty": Engine(_TRANSFORMERS, from_pretrained_empty),
}


def hash_all(tensors: Tensors) -> dict[str, str]:
    import torch

    return {name: xxhash.xxh3_64_hexdigest(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
            for name, tensor in tensors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--keys", help="a glob: only these")
    parser.add_argument("--checksums", type=pathlib.Path, help="compare with these")
    arguments = parser.parse_args()
    engine = ENGINES[arguments.engine]
    started = time.perf_counter()
    for module in engine.imports:
        importlib.import_module(module)
    imported = time.perf_counter()
    io_before, cpu_before = processes.io_bytes(), time.process_time()
    begin = time.perf_counter()
    tensors = engine.load(arguments.directory, arguments.keys)
    handle = time.perf_counter()
    cpu_handle = time.process_time()
    result: dict[str, object] = {"import": imported - started, "handle": handle - begin, "tensors": len(tensors),
                                 "cpu": cpu_handle - cpu_before}
    if arguments.checksums:
        sums = hash_all(tensors)
        result["usable"] = time.perf_counter() - begin
        expected = json.loads(arguments.checksums.read_text())
        wanted = match(expected, arguments.keys)
        wrong = [name for name in wanted if sums.get(name) != expected[name]]
        result |= {"wrong": len(wrong) + len(sums.keys() - expected.keys()), "checked": len(wanted)}
    result |= processes.difference(processes.io_bytes(), io_before)
    result |= processes.memory_bytes(os.getpid())
    print(json.dumps(result), flush=True)
    os._exit(0)  # freeing is not part of a load


if __name__ == "__main__":
    main()
