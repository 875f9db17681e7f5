"""Runs commands to their end and reads what /proc knows about running ones."""

import dataclasses
import os
import pathlib
import subprocess
import tempfile
import time


@dataclasses.dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str
    seconds: float      # from before the fork to after the wait
    cpu_seconds: float  # user and system
    peak_rss: int       # bytes


class Running:
    """A command whose output goes to files, so that it never waits for its reader."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None):
        self._out = tempfile.TemporaryFile("w+")
        self._err = tempfile.TemporaryFile("w+")
        self._start = time.perf_counter()
        self._process = subprocess.Popen(command, stdout=self._out, stderr=self._err, stdin=subprocess.DEVNULL,
                                         env={**os.environ, **(environment or {})})

    def wait(self) -> Finished:
        _, status, usage = os.wait4(self._process.pid, 0)
        seconds = time.perf_counter() - self._start
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read())
            file.close()
        out, err = texts
        return Finished(code, out, err, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def run(command: list[str], environment: dict[str, str] | None = None) -> Finished:
    return Running(command, environment).wait()


def _fields(path: str) -> dict[str, int]:
    lines = (line.split() for line in pathlib.Path(path).read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def io_bytes(process: int | str = "self") -> dict[str, int]:
    """rchar: what read calls returned. read_bytes: what came from the disk for them and for page faults."""
    fields = _fields(f"/proc/{process}/io")
    return {name: fields[name] for name in ("rchar", "read_bytes")}


def difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after}


def memory_bytes(process: int) -> dict[str, int]:
    """Resident now and at the peak since reset_peak; shared is the part in files and shared memory."""
    fields = _fields(f"/proc/{process}/status")
    huge = fields["HugetlbPages"]  # not part of the others
    return {"rss": (fields["VmRSS"] + huge) * 1024, "peak_rss": (fields["VmHWM"] + huge) * 1024,
            "shared": (fields["RssFile"] + fields["RssShmem"] + huge) * 1024}


def available_bytes() -> int:
    """What the machine can give to processes without swapping."""
    return _fields("/proc/meminfo")["MemAvailable"] * 1024


def reset_peak(process: int) -> None:
    pathlib.Path(f"/proc/{process}/clear_refs").write_text("5")


def cpu_seconds(process: int) -> float:
    words = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
