"""A keyloadd process of one measurement, and the keyload command run against it."""

import dataclasses
import functools
import json
import pathlib
import signal
import subprocess
import tempfile
import time

import processes

START_SECONDS = 60


class NotAvailable(Exception):
    """This build, or this machine, cannot do what the case measures; the text says what."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """A finished command: its document, and the whole command's time and memory."""

    document: dict
    finished: processes.Finished


@functools.cache
def _help(*command: str) -> str:
    return subprocess.run([*command, "--help"], capture_output=True, text=True, check=False).stdout


class Daemon:
    """Serves `root`. To be used in a with statement; ends by SIGTERM."""

    def __init__(self, binaries: pathlib.Path, root: pathlib.Path, flags: tuple[str, ...] = (),
                 cgroup: pathlib.Path | None = None):
        self._command = str(binaries / "keyload")
        daemon = str(binaries / "keyloadd")
        for flag in flags:
            if flag.startswith("--") and flag not in _help(daemon):
                raise NotAvailable(f"keyloadd has no {flag}")
        self._directory = tempfile.TemporaryDirectory(prefix="keyload-bench-")
        self.address = f"unix:{self._directory.name}/socket"
        self._log = open(f"{self._directory.name}/log", "w+")
        # A shell enters the control group and becomes the daemon.
        enter = ["sh", "-c", 'echo $$ >"$0"/cgroup.procs && exec "$@"', str(cgroup)] if cgroup else []
        self._process = subprocess.Popen(
            [*enter, daemon, "--listen", self.address, "--model-root", str(root), *flags],
            stdout=self._log, stderr=self._log)
        self.pid = self._process.pid

    def __enter__(self) -> "Daemon":
        deadline = time.monotonic() + START_SECONDS
        while processes.run([self._command, "--server", self.address, "health"]).code != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self._log_text()
                self.__exit__()
                raise RuntimeError(f"keyloadd does not answer:\n{log}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=120)
        self._log.close()
        self._directory.cleanup()

    def _log_text(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2000:]

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def start(self, *arguments: str) -> processes.Running:
        """Raises NotAvailable if the command has no such subcommand or option."""
        if arguments[0] not in _help(self._command):
            raise NotAvailable(f"keyload has no command {arguments[0]}")
        for argument in arguments:
            if argument.startswith("--") and argument not in _help(self._command, arguments[0]):
                raise NotAvailable(f"keyload {arguments[0]} has no {argument}")
        return processes.Running([self._command, "--server", self.address, "--json", *arguments])

    def answer(self, finished: processes.Finished) -> Answer:
        """Raises NotAvailable for what the server says it does not support, RuntimeError for every other failure."""
        document = json.loads(finished.out) if finished.out.strip() else {}
        error = document.get("error") or {}
        if error.get("reason") in ("FIELD_NOT_SUPPORTED", "METHOD_NOT_SUPPORTED"):
            raise NotAvailable(error["message"])
        if finished.code != 0:
            raise RuntimeError(f"keyload ended with {finished.code}: {error.get('message') or finished.err[-500:]}")
        return Answer(document, finished)

    def run(self, *arguments: str) -> Answer:
        return self.answer(self.start(*arguments).wait())
