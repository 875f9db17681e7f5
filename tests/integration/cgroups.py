"""Control groups for tests: a daemon that may use less than the machine has."""

import os
import pathlib
import subprocess
import sys


def make_memory_cgroup(limit_bytes):
    """A new group below our own with a limit, version 1 or 2; None where that cannot be done."""
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if controllers == "memory":
            base, limit = pathlib.Path("/sys/fs/cgroup/memory" + path), "memory.limit_in_bytes"
        elif number == "0":
            base, limit = pathlib.Path("/sys/fs/cgroup" + path), "memory.max"
        else:
            continue
        group = base / f"keyload-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(limit_bytes))
            return group
        except OSError:
            group.rmdir()
    return None


class Neighbour:
    """Another process of a group, which holds `mib` MiB of memory from when this returns until `stop`."""

    PROGRAM = """
import sys
held = bytearray(int(sys.argv[1]) << 20)
held[::4096] = b"x" * len(held[::4096])
print("ready", flush=True)
sys.stdin.read()
"""

    def __init__(self, group, mib):
        self.group = group
        self.process = subprocess.Popen([sys.executable, "-c", self.PROGRAM, str(mib)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, preexec_fn=self._join)
        self.ready = self.process.stdout.readline().strip() == "ready"

    def _join(self):
        (self.group / "cgroup.procs").write_text("0")

    def stop(self):
        """Returns the exit code: negative when the kernel killed it."""
        if self.process.returncode is None:
            self.process.communicate()
        return self.process.returncode
