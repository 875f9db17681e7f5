"""Every group of the benchmark, in the order of the page."""

import json
import pathlib

import keyload_loads
import peers
import processes
import sharing
from cases import Case, Context, Group, Sample, prepare
from data_sets import LARGE_SUBSET, ONE_EXPERT, SMALL_SUBSET

DIRECT_READ = pathlib.Path(__file__).with_name("direct_read.py")
SLOW_RUNS = 3


def _direct(threads: int) -> Case:
    def run(context: Context) -> Sample:
        prepare(context.data["large"], "cold")
        command = [str(context.python), "-B", str(DIRECT_READ), str(context.data["large"].directory), str(threads)]
        finished = processes.run(command)
        if finished.code != 0:
            raise RuntimeError(finished.err[-500:])
        return {**json.loads(finished.out), "cpu": finished.cpu_seconds}

    return Case(f"direct-{threads}", f"plain O_DIRECT read, {threads} threads of 16 MiB", run, reference=True)


def _transformers(id: str, engine: str, data: str) -> tuple[Case, ...]:
    return tuple(
        peers.peer(f"{id}-transformers-{version}", f"transformers {version}", engine, data,
                   "as is" if data == "empty" else "warm", check=False, transformers_4=version == "4.57",
                   most_runs=SLOW_RUNS) for version in ("5", "4.57"))


def _four(data: str) -> tuple[Case, ...]:
    return (
        sharing.four_peers(f"four-{data}-clone", "safetensors load_file + clone", "safetensors-clone", data, "handle",
                           owned=True),
        sharing.four_peers(f"four-{data}-mmap", "safetensors load_file (mmap), every byte hashed", "safetensors-mmap",
                           data, "usable", owned=False),
        sharing.clients_materialize(f"four-{data}-keyload", "keyload load --lazy --copy, 4 times materialize", data, 4,
                                    "*"),
    )


def _subset(data: str, keys: str) -> tuple[Case, ...]:
    return (
        peers.peer(f"{data}-subset-safe-open", "safetensors safe_open, get_tensor + clone", "safe_open-subset", data,
                   "warm", keys=keys),
        peers.peer(f"{data}-subset-runai", "runai-model-streamer, tensor_names", "runai-model-streamer", data, "warm",
                   keys=keys, extra=peers.RUNAI_BUFFERED),
        *keyload_loads.subset(data, keys),
    )


def _ready(data: str, engine: str, label: str, transformers_4: bool = False) -> Group:
    id = f"ready-{data}-{engine}{'-4' if transformers_4 else ''}"
    cases = tuple(sharing.ready(f"{id}-{state}", text, engine, data, state, transformers_4=transformers_4)
                  for state, text in (("cold", "cold"), ("warmed", "after keyload load --warm"),
                                      ("warm", "page cache warm before")))
    return Group(id, f"Time to ready of a second process: {label}", cases,
                 "Until every byte was hashed, without imports. The whole command is `keyload load --warm` before it.")


def _small_and_large(data: str, title: str) -> tuple[Group, ...]:
    return (
        Group(f"{data}-owned", f"{title}, warm page cache, into memory of their own (O)",
              (*peers.owned(data, "warm"), *keyload_loads.copied(data, "warm"))),
        Group(f"{data}-mapped", f"{title}, warm page cache, mapped views (M)",
              (*peers.mapped(data, "warm", "handle"), *keyload_loads.mapped(data, "warm", "report"))),
    )


GROUPS = (
    Group("plan", "91,991 keys in 163 shards at real sizes: headers only",
          (peers.peer("plan-safe-open", "safetensors safe_open, every key's dtype and shape", "safe_open-headers",
                      "sparse", "as is", check=False), *keyload_loads.planned())),
    Group("empty", "An empty checkpoint: all keys missing",
          (*keyload_loads.all_missing(), *_transformers("empty", "from_pretrained-empty", "empty")),
          "transformers builds the model at reduced sizes, and gives the missing keys memory and values; keyload "
          "decides, places and reports at real sizes, and gives them no memory."),
    *_small_and_large("small", "91,991 small tensors"),
    Group("small-transformers", "91,991 small tensors, transformers",
          _transformers("small", "from_pretrained", "small"),
          "For context, not compared: it also builds modules, converts fp8 to bf16 and, in version 5, merges experts."),
    *_small_and_large("large", "48 large tensors"),
    Group("large-cold", "48 large tensors, cold, into memory of their own (O)",
          (_direct(2), _direct(16), *peers.owned("large", "cold"), *keyload_loads.copied("large", "cold"))),
    Group("large-cold-mapped", "48 large tensors, cold, mapped views, every byte hashed (M)",
          (*peers.mapped("large", "cold", "usable"), *keyload_loads.mapped("large", "cold", "usable"))),
    Group("small-subset", "2 % of the small tensors: five of 256 experts in every layer",
          _subset("small", SMALL_SUBSET)),
    Group("large-subset", "2 % of the large tensors: one of 48",
          _subset("large", LARGE_SUBSET)),
    Group("expert", "Materialising one expert of a lazy model",
          (keyload_loads.one_expert("sparse", ONE_EXPERT), keyload_loads.one_expert("small", ONE_EXPERT))),
    Group("clients", "32 clients that materialise the same keys",
          (sharing.clients_materialize("clients-32", "keyload load --lazy --copy, 32 times materialize", "large", 32,
                                       "*.layers.{0..3}.*"),)),
    Group("four-small", "4 clients at once, 91,991 small tensors, warm", _four("small")),
    Group("four-large", "4 clients at once, 48 large tensors, warm", _four("large")),
    _ready("large", "safetensors-mmap", "safetensors load_file of 4.3 GB"),
    _ready("llama", "from_pretrained", "transformers 5 from_pretrained of 1.1 GB"),
    _ready("llama", "from_pretrained", "transformers 4.57 from_pretrained of 1.1 GB", transformers_4=True),
    Group("memory", "The daemon's memory for the index of 91,991 keys", (sharing.index_memory(),)),
    Group("limited", "A control group with less memory than the checkpoint",
          tuple(sharing.limited(option) for option in ("--copy", "--warm", "--hold"))),
)
