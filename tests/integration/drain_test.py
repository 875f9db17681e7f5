"""SIGTERM: what only waits ends at once, what runs may finish, and whatever hangs does not keep the process."""

import os
import signal
import subprocess
import unittest

import checkpoints
import daemon
import log_test
import scenario_runs

EXIT_SECONDS = 60  # for what takes one; only a failure waits so long


class DrainTest(daemon.DaemonTest):
    # A load of 32 MiB takes four seconds, and has little under way that cannot be cancelled.
    flags = ("--simulate-gpus", "1x1GiB@8MiB", "--scratch-memory", "8MiB", "--grace", "600s")

    def play(self, name):
        scenario = scenario_runs.SCENARIOS / "drain" / f"{name}.json"
        mock = scenario_runs.play(self.daemon, "--daemon-pid", str(self.daemon.process.pid), scenario)
        self.assertEqual(mock.returncode, 0, mock.stdout + mock.stderr)
        self.assertEqual(self.daemon.process.wait(timeout=EXIT_SECONDS), 0)
        self.assertFalse((self.directory / "keyload.sock").exists())

    def test_the_first_signal_lets_the_load_finish(self):
        self.play("first_signal")

    def test_the_second_signal_ends_the_load(self):
        self.play("second_signal")

    def test_more_signals_leave_a_cancelled_load_its_time(self):
        checkpoints.write_sharded(self.models / "big", {f"layers.{i}.weight": ("F32", [1024, 1024]) for i in range(8)}, 1)
        load = self.daemon.popen("--json", "load", "big", "--from", self.models / "big", "--device-map", "cuda:0")
        self.addCleanup(load.communicate)
        while not any((entry.get("progress") or {}).get("phase") == "transfer" for entry in self.succeed("loads")["loads"]):
            self.assertIsNone(load.poll())
        process = self.daemon.process
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=0.02)
            except subprocess.TimeoutExpired:
                pass
        self.assertEqual(process.returncode, 0, "no load was left behind")
        self.assertNotIn("active_loads=1", self.daemon.log.read_text().rsplit("drain", 1)[1].partition("\n")[2])


class WatchdogTest(daemon.DaemonTest):
    def start(self, *flags, **options):
        self.config = self.directory / "keyloadd.toml"
        self.config.touch()
        return super().start("--config", self.config, "--grace", "600s", **options)

    def hang_the_shutdown(self):
        self._cleanups.pop()  # of a daemon that cannot end with 0
        # A reload that waits for ever, as on a file system that is gone, and has to end before the daemon does.
        self.config.unlink()
        os.mkfifo(self.config)
        self.daemon.process.send_signal(signal.SIGHUP)
        writer = os.open(self.config, os.O_WRONLY)  # waits until the daemon reads
        self.addCleanup(os.close, writer)
        self.addCleanup(self.daemon.process.kill)
        self.succeed("health")

    def assert_it_is_ended(self):
        self.daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.process.wait(timeout=EXIT_SECONDS), 6)

    def test_a_shutdown_that_hangs_is_ended_also_within_the_grace(self):
        self.hang_the_shutdown()
        self.assert_it_is_ended()
        self.assertIn("the shutdown hangs", self.daemon.log.read_text())

    def test_a_log_that_takes_nothing_does_not_keep_it(self):
        self.daemon.stop()
        self._cleanups.pop()
        self.daemon = log_test.PipedDaemon(self.directory, "--config", self.config, "--grace", "600s")
        self.addCleanup(self.daemon.stop)  # which hang_the_shutdown takes back
        self.hang_the_shutdown()
        self.daemon.fill_log()
        self.assert_it_is_ended()


if __name__ == "__main__":
    unittest.main()
