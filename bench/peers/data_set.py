"""Where a data set is and what it has."""

import dataclasses
import pathlib


def shard_files(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(directory.glob("*.safetensors"))


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A checkpoint directory under the data directory, and what was written beside it."""

    name: str
    directory: pathlib.Path
    tensors: int
    bytes: int

    @property
    def checksums(self) -> pathlib.Path:
        return self.directory.with_suffix(".checksums.json")

    @property
    def manifest(self) -> pathlib.Path:
        return self.directory.with_suffix(".manifest.json")

    @property
    def files(self) -> list[pathlib.Path]:
        return shard_files(self.directory) or sorted(self.directory.glob("*.pt"))
