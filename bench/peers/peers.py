"""The peers and how each is run at its best: engine of peer_load.py, environment, and state of the page cache."""

import json
import pathlib

import processes
from cases import Case, Context, Sample, prepare

PEER_LOAD = pathlib.Path(__file__).with_name("peer_load.py")
RUNAI_BUFFERED = {"RUNAI_STREAMER_FS_STRATEGY": "sync_buffered", "RUNAI_STREAMER_MEMORY_LIMIT": "-1"}
TRANSFORMERS_4 = "transformers4"  # folder in the environment, made by pip install --target


def load_command(context: Context, engine: str, directory: pathlib.Path, *arguments: str) -> list[str]:
    return [str(context.python), "-B", str(PEER_LOAD), engine, str(directory), *arguments]


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    return {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **(extra or {})}


def with_transformers_4(context: Context) -> dict[str, str]:
    return {"PYTHONPATH": str(context.python.parent.parent / TRANSFORMERS_4)}


def sample_of(finished: processes.Finished, clock: str) -> Sample:
    if finished.code != 0:
        raise RuntimeError(f"peer ended with {finished.code}: {finished.err[-500:]}")
    sample = json.loads(finished.out.splitlines()[-1])
    if sample.get("wrong"):
        raise RuntimeError(f"{sample['wrong']} tensors differ from the reference")
    return {**sample, "seconds": sample[clock], "command": finished.seconds}


def peer(id: str, label: str, engine: str, data: str, state: str, *, clock: str = "handle", keys: str | None = None,
         extra: dict[str, str] | None = None, transformers_4: bool = False, check: bool = True,
         copy: str | None = None, most_runs: int = 1000) -> Case:
    """`copy` names a directory that the engine reads instead of the data set, a conversion of it."""

    def run(context: Context) -> Sample:
        set_ = context.data[copy or data]
        prepare(set_, state)
        arguments = ["--checksums", str(context.data[data].checksums)] if check else []
        arguments += ["--keys", keys] if keys else []
        variables = environment(extra) | (with_transformers_4(context) if transformers_4 else {})
        return sample_of(processes.run(load_command(context, engine, set_.directory, *arguments), variables), clock)

    return Case(id, label, run, peer=True, most_runs=most_runs)


def owned(data: str, state: str) -> tuple[Case, ...]:
    """Every peer that ends with tensors in memory of its own."""
    prefix = f"{data}-{state}"
    cases = [
        peer(f"{prefix}-clone", "safetensors load_file + clone", "safetensors-clone", data, state),
        peer(f"{prefix}-pread", 'safetensors load_file, backend="pread"', "safetensors-pread", data, state),
        peer(f"{prefix}-fast", "fastsafetensors, cpu, nogds", "fastsafetensors", data, state),
        peer(f"{prefix}-runai", "runai-model-streamer", "runai-model-streamer", data, state),
        peer(f"{prefix}-torch", "torch.load of a converted copy", "torch.load", data, state, copy=f"{data}-pt"),
    ]
    if state == "warm":
        cases += [
            peer(f"{prefix}-fast-cached", "fastsafetensors, disable_cache=False", "fastsafetensors-cached", data,
                 state),
            peer(f"{prefix}-runai-buffered", "runai-model-streamer, sync_buffered, no memory limit",
                 "runai-model-streamer", data, state, extra=RUNAI_BUFFERED),
        ]
    return tuple(cases)


def mapped(data: str, state: str, clock: str) -> tuple[Case, ...]:
    """Every peer whose tensors are views of the mapped file."""
    prefix = f"{data}-{state}"
    return (
        peer(f"{prefix}-mmap", "safetensors load_file (mmap)", "safetensors-mmap", data, state, clock=clock),
        peer(f"{prefix}-torch-mmap", "torch.load(mmap=True) of a converted copy", "torch.load-mmap", data, state,
             clock=clock, copy=f"{data}-pt"),
    )
