"""SIGHUP: a running daemon takes over what may change of its configuration."""

import json
import os
import signal
import time
import unittest

import checkpoints
import daemon

SECONDS = 30  # for what takes milliseconds; only a failure waits so long


class ReloadTest(daemon.DaemonTest):
    flags = ()

    def start(self, *flags, **options):
        self.config = self.directory / "keyloadd.toml"
        self.extra = self.directory / "extra"
        self.extra.mkdir()
        checkpoints.write_file(self.extra / "one.safetensors", checkpoints.small_model())
        self.configure()
        return super().start("--config", self.config, "--log-format", "json", model_root=False)

    def configure(self, **settings):
        values = {"model_roots": [str(self.directory / "models")], "simulate_gpus": "1x1GiB@16MiB", "grace": "20s"}
        self.config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in (values | settings).items()))

    def lines(self, event):
        lines = [json.loads(line) for line in self.daemon.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def reload(self, event="reload"):
        """SIGHUP; returns the new lines that the log has of `event` when there is one."""
        before = len(self.lines(event))
        self.daemon.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + SECONDS
        while len(lines := self.lines(event)) == before and time.monotonic() < deadline:
            self.succeed("health")
        return lines[before:]

    def load_extra(self, name):
        return ("load", name, "--from", self.extra / "one.safetensors")

    def test_roots_come_and_go_and_models_stay(self):
        self.refused(4, "PATH_NOT_ALLOWED", *self.load_extra("early"))
        both = [str(self.directory / "models"), str(self.extra)]
        self.configure(model_roots=both)
        self.assertEqual(self.reload()[0]["changed"], "--model-root")
        self.assertEqual(self.succeed("info")["roots"], both)
        self.succeed(*self.load_extra("kept"))
        self.configure()
        self.reload()
        self.refused(4, "PATH_NOT_ALLOWED", *self.load_extra("late"))
        self.assertEqual(self.succeed("show", "kept")["state"], "RESIDENT")

    def test_a_running_load_keeps_the_roots_that_it_began_with(self):
        both = [str(self.directory / "models"), str(self.extra)]
        self.configure(model_roots=both)
        self.reload()
        checkpoints.write_sharded(self.extra / "slow", {f"w.{i}": ("F32", [1024, 1024]) for i in range(8)}, 2)
        client = self.daemon.popen("--json", "load", "slow", "--from", self.extra / "slow", "--device-map", "cuda:0")
        while self.daemon.device_memory()["cuda:0"][:2] == (0, 0):
            pass  # each turn is a call to the daemon
        self.configure()
        self.reload()
        self.refused(4, "PATH_NOT_ALLOWED", *self.load_extra("other"))
        self.assertIsNone(client.poll(), "the load still runs")
        out, err = client.communicate(timeout=60)
        self.assertEqual(client.returncode, 0, out + err)
        self.assertEqual(json.loads(out)["outcome"], "COMPLETE")

    def test_a_bad_file_changes_nothing_and_is_named(self):
        self.configure(model_roots=[str(self.extra)], log_level="loud")
        refused = self.reload("reload refused")
        self.assertIn("keyloadd.toml", refused[0]["error"])
        self.assertIn("log_level", refused[0]["error"])
        self.assertEqual(self.succeed("info")["roots"], [str(self.directory / "models")])
        self.configure(model_roots=[str(self.directory / "nowhere")], log_level="warning")
        self.assertIn("nowhere", self.reload("reload refused")[0]["error"])
        self.assertEqual(self.succeed("info")["roots"], [str(self.directory / "models")])

    def test_the_log_level_changes_and_what_needs_a_restart_is_named(self):
        self.configure(log_level="warning", io_threads=3, concurrent_loads=5)
        lines = self.reload()
        self.assertEqual([line.get("needs_restart") for line in lines], ["--concurrent-loads,--io-threads"])
        self.succeed("unload", "nothing")
        checkpoints.write_file(self.directory / "models/quiet.safetensors", checkpoints.small_model())
        self.succeed("load", "quiet", "--from", self.directory / "models/quiet.safetensors")
        self.assertEqual(self.lines("load"), [], "info is not written any more")
        self.assertEqual(self.succeed("info")["limits"]["concurrent_loads"], 2)

    def test_the_load_queue_becomes_longer(self):
        self.configure(load_queue=1)
        self.reload()
        checkpoints.write_sharded(self.models / "slow", {f"w.{i}": ("F32", [1024, 1024]) for i in range(24)}, 1)
        loads = [("load", f"m{i}", "--from", self.models / "slow", "--device-map", "cuda:0", "--detach") for i in range(4)]
        names = []
        for load in loads[:2]:
            names.append(self.succeed(*load)["load"])
            self.wait_until_they_run(names)
        names.append(self.succeed(*loads[2])["load"])
        self.refused(6, "LOAD_QUEUE_FULL", *loads[3][:-1])  # waiting for its end, as being accepted comes before that
        self.configure(load_queue=2)
        self.assertEqual(self.reload()[0]["changed"], "--load-queue")
        names.append(self.succeed(*loads[3])["load"])
        for name in reversed(names):  # those that wait first, so that none of them begins
            self.succeed("cancel", name)

    def wait_until_they_run(self, names):
        deadline = time.monotonic() + SECONDS
        phases = None
        while phases != {"transfer"} and time.monotonic() < deadline:
            loads = [load for load in self.succeed("loads")["loads"] if load["load"] in names]
            phases = {load["progress"]["phase"] if load["progress"] else None for load in loads}

    def test_a_file_that_cannot_be_read_now_holds_nothing_up(self):
        self.config.unlink()
        os.mkfifo(self.config)
        self.daemon.process.send_signal(signal.SIGHUP)
        self.succeed("health")
        writer = os.open(self.config, os.O_WRONLY)  # waits for the daemon to open it
        self.succeed("list")
        os.write(writer, b"grace = 1\n")
        os.close(writer)
        deadline = time.monotonic() + SECONDS
        while not self.lines("reload refused") and time.monotonic() < deadline:
            self.succeed("health")
        self.assertIn("grace", self.lines("reload refused")[0]["error"])


if __name__ == "__main__":
    unittest.main()
