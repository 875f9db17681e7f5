"""Converts a safetensors checkpoint to torch.save files, one a shard: torch_copy.py FROM TO. Prints the seconds."""

import pathlib
import sys
import time

import torch
from safetensors.torch import load_file

from data_set import shard_files


def main() -> None:
    source, target = map(pathlib.Path, sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for path in shard_files(source):
        torch.save(load_file(path), target / f"{path.stem}.pt")
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
