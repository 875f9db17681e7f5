"""What a benchmark is made of: cases that are measured in turn, in groups that are compared."""

import collections.abc
import contextlib
import dataclasses
import pathlib
from typing import Any

import page_cache
from data_set import DataSet

Sample = dict[str, Any]  # seconds and bytes by name
HUGE_PAGE_BYTES = 2 * 1024 * 1024
HUGE_PAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")


@dataclasses.dataclass
class Context:
    """What every case needs: where things are, and what may be done to the machine."""

    data: dict[str, DataSet]
    root: pathlib.Path
    binaries: pathlib.Path
    python: pathlib.Path
    allow_huge_pages: bool
    verified: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class Case:
    """One row. `run` measures once in fresh processes and returns seconds and bytes by name; "seconds" is compared."""

    id: str
    label: str
    run: collections.abc.Callable[[Context], Sample]
    peer: bool = False
    reference: bool = False  # what others are compared with: the hardware, a full load; no ratio of its own
    most_runs: int = 1000    # for slow ones


@dataclasses.dataclass(frozen=True)
class Group:
    """Cases over one data set in one state of the page cache with one meaning of loaded."""

    id: str
    title: str
    cases: tuple[Case, ...]
    note: str = ""


def prepare(data: DataSet, state: str) -> None:
    if state == "cold":
        page_cache.evict(data.files)
    elif state == "warm":
        page_cache.warm(data.files)


@contextlib.contextmanager
def huge_pages(count: int) -> collections.abc.Iterator[int]:
    """Asks the kernel for `count` huge pages, yields how many it has, and puts the old number back."""
    before = HUGE_PAGES.read_text()
    try:
        HUGE_PAGES.write_text(str(count))
        yield int(HUGE_PAGES.read_text())
    finally:
        HUGE_PAGES.write_text(before)


def interleaved(cases: collections.abc.Sequence[Case], runs: int) -> collections.abc.Iterator[Case]:
    """A B C, C B A, A B C ...: what drifts hits all alike."""
    for number in range(runs):
        turn = cases if number % 2 == 0 else tuple(reversed(cases))
        yield from (case for case in turn if number < case.most_runs)
