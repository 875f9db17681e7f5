"""A keyloadd under limits of memory and descriptors, and what it uses of them.

Two kinds of limit, because they end a daemon in different ways: an address-space limit (RLIMIT_AS) makes an allocation
throw, a memory cgroup kills the process that asked. A daemon has to survive both.
"""

import fcntl
import json
import os
import pathlib
import signal
import subprocess
import time

import daemon
import cgroups

MIB = 1 << 20
CGROUP_BYTES = 2048 * MIB
# An address space holds what is mapped, used or not: some 650 MiB are the stacks of threads and libraries.
ADDRESS_SPACE_BYTES = 3072 * MIB
DESCRIPTORS = 1024
F_SETPIPE_SZ = 1031


class LimitedDaemon(daemon.Daemon):
    """keyloadd with `limit` ("cgroup", "address_space" or None) over the checkpoints below `models`.

    It listens on a Unix socket and on a TCP port (`tcp_port`), and for scrapes on `metrics_port`. Its log goes through
    a reader process, so that a test can stop the reader (`stall_log`).
    """

    def __init__(self, directory, models, *flags, limit=None, descriptors=DESCRIPTORS):
        self.limit, self.descriptors, self.reader = limit, descriptors, None
        self.log = pathlib.Path(directory) / "keyloadd.log"
        starts = len(self.log_lines("start"))  # of daemons before, in the same directory
        self.group = cgroups.make_memory_cgroup(CGROUP_BYTES) if limit == "cgroup" else None
        if limit == "cgroup" and self.group is None:
            raise LookupError("no memory cgroup can be made here")
        try:
            super().__init__(directory, "--model-root", str(models), "--listen", "127.0.0.1:0", "--metrics-listen",
                             "127.0.0.1:0", "--log-format", "json", *flags, model_root=False)
        except BaseException:
            self._clean_up()
            raise
        start = self._await_start(starts)
        self.tcp_port = int(start["listen"].rsplit(":", 1)[1])
        self.metrics_port = int(start["metrics_listen"].rsplit(":", 1)[1])
        self.pid = self.process.pid

    def spawn(self, *flags):
        # Limits are set by a shell that becomes the daemon: Python must not fork while gRPC's threads run.
        script = f"ulimit -n {self.descriptors}; "
        if self.group:
            script += f"echo 0 > '{self.group}/cgroup.procs'; "
        if self.limit == "address_space":
            script += f"ulimit -v {ADDRESS_SPACE_BYTES // 1024}; "
        log = open(self.log, "ab")
        self.reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        log.close()
        fcntl.fcntl(self.reader.stdin, F_SETPIPE_SZ, 4096)
        process = subprocess.Popen(["sh", "-c", script + 'exec "$0" "$@"', daemon.BIN_DIR / "keyloadd", *flags],
                                   stdout=self.reader.stdin, stderr=self.reader.stdin)
        self.reader.stdin.close()
        return process

    def _await_start(self, earlier):
        deadline = time.monotonic() + daemon.START_SECONDS
        while len(lines := self.log_lines("start")) == earlier:  # the reader may be behind
            if time.monotonic() > deadline:
                raise AssertionError(f"no line of the start:\n{self.log.read_text()}")
            time.sleep(0.02)
        return lines[-1]

    def log_lines(self, event):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        lines = [json.loads(line) for line in text.splitlines()
                 if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line.get("event") == event]

    def stall_log(self, stalled):
        if self.reader:
            self.reader.send_signal(signal.SIGSTOP if stalled else signal.SIGCONT)

    @property
    def alive(self):
        return self.process.poll() is None

    def end(self):
        """How the process ended, in words; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"

    def status_kib(self, *fields):
        """The sum of fields of /proc/PID/status; 0 for a process that has ended."""
        try:
            lines = pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in fields)

    def resident_mib(self):
        return self.status_kib("VmRSS") / 1024

    def peak_mib(self):
        """The most that was resident since reset_peak."""
        return self.status_kib("VmHWM") / 1024

    def reset_peak(self):
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def stop(self):
        self.stall_log(False)
        try:
            return super().stop()
        finally:
            self._clean_up()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self._clean_up()

    def _clean_up(self):
        if self.reader:
            self.stall_log(False)
            self.reader.wait()
            self.reader = None
        if self.group:
            os.rmdir(self.group)
            self.group = None
