"""The machine and the versions that a run's numbers belong to."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess

PEERS = ("safetensors", "fastsafetensors", "runai-model-streamer", "torch", "transformers", "numpy")


def _first(path: str, start: str) -> str:
    for line in pathlib.Path(path).read_text().splitlines():
        if line.startswith(start):
            return line.split(":", 1)[1].strip()
    return ""


def _mount(path: pathlib.Path) -> str:
    """File system and device under `path`."""
    found = ("", "")
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        device, point, kind = line.split()[:3]
        if path.resolve().is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, f"{kind} on {device}")
    return found[1]


def _commit() -> str:
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _transformers_4() -> str:
    lines = pathlib.Path(__file__).with_name("requirements-transformers4.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("transformers=="))


def describe(data: pathlib.Path, binaries: pathlib.Path) -> dict[str, str]:
    version = subprocess.run([binaries / "keyload", "version"], capture_output=True, text=True, check=False).stdout
    shmem = pathlib.Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled").read_text()
    return {
        "processor": f"{os.cpu_count()} cores, {_first('/proc/cpuinfo', 'model name')}",
        "memory": f"{int(_first('/proc/meminfo', 'MemTotal').split()[0]) / 1024**2:.1f} GiB",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        "file system": _mount(data),
        "huge pages in shared memory": shmem[shmem.index("[") + 1:shmem.index("]")],
        "keyload": f"{version.strip()} at {_commit()}",
        "peers": ", ".join([*(f"{name} {importlib.metadata.version(name)}" for name in PEERS),
                            f"transformers {_transformers_4()}"]),
    }
