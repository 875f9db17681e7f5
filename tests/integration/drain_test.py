"""SIGTERM: what only waits ends at once, what runs may finish, and whatever hangs does not keep the process."""

import os
import signal
import unittest

import daemon
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


class WatchdogTest(daemon.DaemonTest):
    def start(self, *flags, **options):
        self.config = self.directory / "keyloadd.toml"
        self.config.touch()
        return super().start("--config", self.config, "--grace", "600s", **options)

    def test_a_shutdown_that_hangs_is_ended_also_within_the_grace(self):
        self._cleanups.pop()  # of a daemon that cannot end with 0
        # A reload that waits for ever, as on a file system that is gone, and has to end before the daemon does.
        self.config.unlink()
        os.mkfifo(self.config)
        self.daemon.process.send_signal(signal.SIGHUP)
        writer = os.open(self.config, os.O_WRONLY)  # waits until the daemon reads
        self.addCleanup(os.close, writer)
        self.addCleanup(self.daemon.process.kill)
        self.succeed("health")
        self.daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.process.wait(timeout=EXIT_SECONDS), 6)
        self.assertIn("the shutdown hangs", self.daemon.log.read_text())


if __name__ == "__main__":
    unittest.main()
