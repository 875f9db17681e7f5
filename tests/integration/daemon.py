"""A keyloadd process of a test's own, and the keyload command run against it."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import environment

BIN_DIR = environment.folder("KEYLOAD_BIN_DIR", "the folder of keyloadd and keyload, as build/release/bin")
SOURCE_DIR = environment.folder("KEYLOAD_SOURCE_DIR", "the root of the repository")
WITH_TORCH = os.environ.get("KEYLOAD_WITH_TORCH") == "ON"
START_SECONDS = 30  # LibTorch's libraries come from a cold disk at worst
COMMAND_SECONDS = 60


class Result:
    """What a finished command left: exit code, standard output and error, and the document if it printed one."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self):
        return self.json["error"]

    def __repr__(self):
        return f"exit {self.code}\n{self.out[-2000:]}\n{self.err[-2000:]}"


class Daemon:
    """A running keyloadd on a Unix socket in `directory`; `directory`/models is its model root, unless `flags` say."""

    def __init__(self, directory, *flags, cgroup=None, model_root=True):
        self.cgroup = cgroup  # directory of a control group that the daemon starts in
        self.directory = pathlib.Path(directory)
        self.models = self.directory / "models"
        self.models.mkdir(exist_ok=True)
        self.address = f"unix:{self.directory}/keyload.sock"
        self.log = self.directory / "keyloadd.log"
        roots = ("--model-root", str(self.models)) if model_root else ()
        self.process = self.spawn("--listen", self.address, *roots, *flags)
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def spawn(self, *flags):
        with open(self.log, "ab") as log:
            return subprocess.Popen([BIN_DIR / "keyloadd", *flags], stdout=log, stderr=log, preexec_fn=self._join_cgroup)

    def _join_cgroup(self):
        if self.cgroup:
            (self.cgroup / "cgroup.procs").write_text("0")

    def _wait_until_it_answers(self):
        deadline = time.monotonic() + START_SECONDS
        while self.command("--json", "health").code != 0:
            if self.process.poll() is not None:
                raise AssertionError(f"keyloadd ended with {self.process.returncode}:\n{self.log.read_text()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"keyloadd does not answer:\n{self.log.read_text()}")
            time.sleep(0.02)

    def popen(self, *arguments):
        return subprocess.Popen([BIN_DIR / "keyload", "--server", self.address, *map(str, arguments)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def command(self, *arguments):
        """Runs keyload to its end."""
        process = self.popen(*arguments)
        out, err = process.communicate(timeout=COMMAND_SECONDS)
        return Result(process.returncode, out, err)

    def read_characters(self):
        """Bytes that the daemon's read calls have returned so far."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/io").read_text().splitlines():
            if line.startswith("rchar:"):
                return int(line.split()[1])
        raise AssertionError("no rchar in /proc/PID/io")

    def device_memory(self):
        """Per device what loads change; free memory only where nothing but the daemon uses it."""
        devices = self.command("--json", "devices").json["devices"]
        return {d["device"]: (d["usedBytes"], d["reservedBytes"], d["freeBytes"] if d["simulated"] else None)
                for d in devices}

    def stop(self):
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


class DaemonTest(unittest.TestCase):
    """One daemon per test, started with `flags`. Its log is printed when the test fails."""

    flags = ("--simulate-gpus", "2x1GiB")

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="keyload-test-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.daemon = self.start(*self.flags)
        self.models = self.daemon.models

    def start(self, *flags, **options):
        daemon = Daemon(self.directory, *flags, **options)
        self.addCleanup(self._stop, daemon)
        return daemon

    def _stop(self, daemon):
        code = daemon.stop()
        self.log_text = daemon.log.read_text()
        self.assertEqual(code, 0, "the daemon's exit code after SIGTERM")

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before:
            print(f"{self.id()}: the daemon's log:\n{getattr(self, 'log_text', '')}", file=sys.stderr)

    def keyload(self, *arguments):
        """Runs `keyload --json ...`."""
        return self.daemon.command("--json", *arguments)

    def succeed(self, *arguments):
        """Runs `keyload --json ...`, which must end with 0, and returns the document."""
        result = self.keyload(*arguments)
        self.assertEqual(result.code, 0, result)
        return result.json

    def refused(self, code, reason, *arguments):
        """Runs `keyload --json ...`, which must end with `code` and an error of `reason`; returns the error."""
        result = self.keyload(*arguments)
        self.assertEqual(result.code, code, result)
        document = result.json
        error = document["error"]
        self.assertEqual(error["reason"], reason, result)
        self.assertLessEqual(len(error["message"].encode()), 4096)
        return error

    def assert_memory(self, expected, seconds=10):
        """The devices' memory becomes `expected`: what a load gives back after its client is gone takes a moment."""
        deadline = time.monotonic() + seconds
        while (memory := self.daemon.device_memory()) != expected and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertEqual(memory, expected)


def listening(address):
    """True if something accepts connections on the Unix socket `address`."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address.removeprefix("unix:")) == 0
