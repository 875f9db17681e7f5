"""A mount that does not answer costs what needs it, and nothing else. Takes root and /dev/fuse."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
import unittest

import checkpoints
import daemon
import fuse_mount
import metrics_page

TENSORS = {f"model.layers.{i}.weight": ("F32", [64, 64]) for i in range(4)}
ANSWER_SECONDS = 20  # of what does not need the mount, on a busy machine; what hangs does so for ever
CANCELLED, FAILED = 5, 6
HEADER_PAGE = 4096  # the header of a shard is in it, and little of its tensors


@unittest.skipIf(fuse_mount.why_not(), fuse_mount.why_not())
class HungStorageTest(daemon.DaemonTest):
    def setUp(self):
        self.flags = ("--simulate-gpus", "1x1GiB", "--metrics-listen", "127.0.0.1:0")
        super().setUp()
        checkpoints.write_sharded(self.models / "local", TENSORS, 1)
        source = self.directory / "behind"
        checkpoints.write_sharded(source / "m", TENSORS, 1)
        self.remote = self.models / "remote"
        self.remote.mkdir()
        self.mount = fuse_mount.FuseMount(source, self.remote)
        # Before the daemon is stopped; the mount is gone before the folder is removed.
        self.addCleanup(self.mount.close)
        self.processes = []
        self.addCleanup(self.end_processes)

    def end_processes(self):
        self.mount.release()
        for process in self.processes:
            process.communicate(timeout=60)

    def begin(self, *arguments):
        process = self.daemon.popen("--json", *arguments)
        self.processes.append(process)
        return process

    def in_time(self, *arguments):
        start = time.monotonic()
        document = self.succeed(*arguments)
        self.assertLess(time.monotonic() - start, ANSWER_SECONDS, arguments)
        return document

    def stuck(self):
        return {entry["mount"]: int(entry["operations"]) for entry in self.in_time("info").get("stuckStorage", [])}

    def wait_for_stuck(self, holds):
        deadline = time.monotonic() + 60
        while not holds(stuck := self.stuck()):  # each turn is a call to the daemon
            self.assertLess(time.monotonic(), deadline, stuck)

    def ends_with(self, process, code, reason):
        out, err = process.communicate(timeout=60)
        self.processes.remove(process)
        self.assertEqual(process.returncode, code, out + err)
        self.assertIn(reason, out)

    def test_a_mount_that_hangs_costs_its_own_loads_and_plans_only(self):
        link = self.models / "link"
        link.symlink_to(self.remote)
        self.mount.hang(fuse_mount.OPEN, fuse_mount.OPENDIR)
        loads = [self.begin("load", f"remote{i}", "--from", self.remote / "m") for i in range(4)]
        plans = [self.begin("plan", f"plan{i}", "--from", link / "m") for i in range(6)]
        mount = str(self.remote)
        self.wait_for_stuck(lambda stuck: stuck.get(mount, 0) == 10)
        self.assertEqual(list(self.stuck()), [mount], "not the mount that has the symlink")
        for i in range(3):
            self.in_time("load", f"local{i}", "--from", self.models / "local")
            self.in_time("plan", "x", "--from", self.models / "local")
            self.in_time("show", f"local{i}")
        self.in_time("health")
        page = metrics_page.series(metrics_page.text(self.daemon))
        self.assertEqual(page[f'keyload_storage_operations_stuck{{mount="{mount}"}}'], 10)
        self.assertIn("storage stuck", self.daemon.log.read_text())
        self.assertIn("stuck mount", self.daemon.command("info").out)

        self.mount.release()
        for process in loads + plans:
            self.ends_with(process, 0, "")
        self.wait_for_stuck(lambda stuck: not stuck)
        self.assertIn("storage answers", self.daemon.log.read_text())
        page = metrics_page.series(metrics_page.text(self.daemon))
        self.assertEqual(page[f'keyload_storage_operations_stuck{{mount="{mount}"}}'], 0)

    def test_reads_that_hang_hold_up_no_other_loads_and_reads(self):
        self.succeed("load", "lazy", "--lazy", "--from", self.remote / "m")
        self.mount.hang(fuse_mount.READ)
        out = self.directory / "out.safetensors"
        reads = [self.begin("read", "lazy", f"model.layers.{i}.weight", "--out", f"{out}.{i}") for i in range(4)]
        reads += [self.begin("materialize", "lazy", "--include", f"model.layers.{i}.*") for i in range(4)]
        self.wait_for_stuck(lambda stuck: list(stuck) == [str(self.remote)])
        for i in range(3):
            self.in_time("load", f"local{i}", "--from", self.models / "local", "--device-map", "cuda:0")
            self.in_time("read", f"local{i}", "model.layers.0.weight", "--out", out)
        self.in_time("plan", "x", "--from", self.models / "local")
        self.mount.release()
        for process in reads:
            self.ends_with(process, 0, "")
        self.wait_for_stuck(lambda stuck: not stuck)

    def test_loads_that_warm_files_of_a_hung_mount_hold_up_no_others(self):
        self.mount.hang(fuse_mount.READ, beyond=HEADER_PAGE)
        loads = [self.begin("load", f"remote{i}", "--warm", "--from", self.remote / "m") for i in range(2)]
        self.wait_for_stuck(lambda stuck: stuck == {str(self.remote): 2})
        self.in_time("load", "local", "--from", self.models / "local", "--device-map", "cuda:0")
        self.mount.release()
        for process in loads:
            self.ends_with(process, 0, "")
        self.wait_for_stuck(lambda stuck: not stuck)

    def test_cancel_and_deadline_end_the_load_though_its_thread_hangs(self):
        self.mount.hang(fuse_mount.OPEN, fuse_mount.OPENDIR)
        cancelled = self.begin("load", "one", "--from", self.remote / "m")
        self.mount.wait_for_held(1)
        load = self.succeed("loads")["loads"][0]["load"]
        self.in_time("cancel", load)
        self.ends_with(cancelled, CANCELLED, "LOAD_CANCELLED")
        late = self.begin("load", "two", "--timeout", "1s", "--from", self.remote / "m")
        self.ends_with(late, CANCELLED, "DEADLINE_EXCEEDED")
        self.in_time("load", "one", "--from", self.models / "local")
        self.in_time("load", "two", "--from", self.models / "local")
        self.wait_for_stuck(lambda stuck: stuck == {str(self.remote): 2})  # the threads are still there

    def test_more_than_a_share_of_calls_are_refused(self):
        self.mount.hang(fuse_mount.OPEN, fuse_mount.OPENDIR)
        for i in range(16):
            self.begin("plan", f"plan{i}", "--from", self.remote / "m")
        self.wait_for_stuck(lambda stuck: stuck == {str(self.remote): 16})
        error = self.refused(FAILED, "IO_ERROR", "plan", "more", "--from", self.remote / "m")
        self.assertEqual(error["metadata"]["mount"], str(self.remote))
        self.in_time("plan", "x", "--from", self.models / "local")

    def test_a_daemon_that_stops_leaves_its_addresses_to_the_next(self):
        state = self.directory / "state"
        self.daemon.stop()
        flags = (*self.flags, "--state-dir", str(state))
        self.daemon = self.start(*flags)
        self.mount.hang(fuse_mount.OPEN, fuse_mount.OPENDIR)
        late = self.begin("load", "m", "--timeout", "500ms", "--from", self.remote / "m")
        self.ends_with(late, CANCELLED, "DEADLINE_EXCEEDED")
        first = self.daemon.process
        first.send_signal(signal.SIGTERM)
        self._wait_for_the_end()
        self.daemon = self.start(*flags)  # which takes the socket and the state
        self.addCleanup(self.mount.release)
        self.in_time("load", "m", "--from", self.models / "local")
        self.mount.release()
        self.assertEqual(first.wait(timeout=60), 0, "it ends when the mount answers")

    def test_a_daemon_whose_reads_hang_leaves_its_addresses_to_the_next(self):
        state = self.directory / "state"
        self.daemon.stop()
        flags = ("--state-dir", str(state), "--grace", "1s")
        self.daemon = self.start("--health-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", *flags)
        self._cleanups.pop()  # of a daemon that cannot end with 0
        first, log = self.daemon.process, self.daemon.log.read_text()
        ports = {name: re.findall(rf" {name}_listen=(\S+)", log)[-1] for name in ("health", "metrics")}
        self.mount.hang(fuse_mount.READ, beyond=HEADER_PAGE)
        self.addCleanup(self.mount.release)
        self.begin("load", "m", "--from", self.remote / "m", "--device-map", "cpu", "--copy")
        self.wait_for_stuck(lambda stuck: list(stuck) == [str(self.remote)])
        first.send_signal(signal.SIGTERM)
        self._wait_for_the_lock(state / "lock")
        self.assertIsNone(first.poll(), "its thread hangs in the kernel")
        self.daemon = self.start("--health-listen", ports["health"], "--metrics-listen", ports["metrics"], *flags)
        self.in_time("load", "m", "--from", self.models / "local")
        self.mount.release()
        self.assertEqual(first.wait(timeout=60), FAILED, "it ends when the mount answers")

    def _wait_for_the_lock(self, path):
        deadline = time.monotonic() + 60
        with open(path) as lock:
            while True:
                try:
                    return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.02)

    def _wait_for_the_end(self):
        deadline = time.monotonic() + 60
        while f"stuck_mount={self.remote}" not in self.daemon.log.read_text():  # the last that it does
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        self.assertFalse((self.directory / "keyload.sock").exists())

    def test_models_of_other_mounts_come_back_past_one_that_hangs(self):
        flags = ("--state-dir", str(self.directory / "state"))
        self.daemon.stop()
        self.daemon = self.start(*self.flags, *flags)
        for name in ("a", "b"):
            self.succeed("load", name, "--from", self.remote / "m")
        self.succeed("load", "c", "--from", self.models / "local")
        self.daemon.stop()
        self.mount.hang(fuse_mount.OPEN, fuse_mount.OPENDIR)
        self.daemon = self.start(*self.flags, *flags)
        self.wait_for_models({"c": "LAZY"}, {"a": "LOADING"})
        self.mount.release()
        self.wait_for_models({"a": "LAZY", "b": "LAZY", "c": "LAZY"})

    def wait_for_models(self, states, loading=None):
        deadline = time.monotonic() + 60
        while True:  # each turn is a call to the daemon
            now = {model["name"]: model["state"] for model in self.in_time("list")["models"]}
            if now in (states, {**states, **(loading or {})}):
                return
            self.assertLess(time.monotonic(), deadline, now)


if __name__ == "__main__":
    unittest.main()
