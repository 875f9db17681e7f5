"""Every scenario of the mock client against a real daemon."""

import subprocess
import unittest

import daemon
import scenario_runs


class ScenariosTest(daemon.DaemonTest):
    flags = ("--simulate-gpus", "2x1GiB@16MiB")

    def test_every_scenario_passes(self):
        mock = scenario_runs.play(self.daemon, scenario_runs.SCENARIOS)
        self.assertEqual(mock.returncode, 0, mock.stdout + mock.stderr)
        self.assertRegex(mock.stdout, r"\n\d+ passed, 0 failed\n$")
        self.succeed("health")

    def test_an_unknown_field_of_a_scenario_is_an_error(self):
        scenario = self.directory / "wrong.json"
        scenario.write_text('{"about": "x", "steps": [{"step": "remember_devices", "wait": 1}]}')
        command = [daemon.BIN_DIR / "keyload-mock", "--server", self.daemon.address, "--work-dir", self.models, scenario]
        mock = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(mock.returncode, 2)
        self.assertIn('unknown field "wait"', mock.stderr)

    def test_a_scenario_that_expects_something_else_fails(self):
        scenario = self.directory / "wrong.json"
        scenario.write_text('{"about": "x", "steps": [{"step": "call", "method": "ListModels", '
                            '"expect": {"response": {"models": {"$length": 1}}}}]}')
        command = [daemon.BIN_DIR / "keyload-mock", "--server", self.daemon.address, "--work-dir", self.models, scenario]
        mock = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(mock.returncode, 1)
        self.assertIn("FAIL wrong", mock.stdout)
        self.assertIn("0 passed, 1 failed", mock.stdout)


class LimitsTest(daemon.DaemonTest):
    """Scenarios for a daemon that is nearly full, and may open two folders in which the kernel refuses to be read."""

    flags = ("--simulate-gpus", "1x16MiB@4MiB", "--concurrent-loads", "1", "--load-queue", "1",
             "--model-root", "/sys/class/net/lo", "--model-root", "/proc/sys/vm")

    def test_every_scenario_passes(self):
        mock = scenario_runs.play(self.daemon, scenario_runs.SCENARIOS / "limits")
        self.assertEqual(mock.returncode, 0, mock.stdout + mock.stderr)
        self.succeed("health")


if __name__ == "__main__":
    unittest.main()
