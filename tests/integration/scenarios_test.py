"""Every scenario of the mock client against a real daemon."""

import hashlib
import json
import subprocess
import unittest

import certificates
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
             "--request-memory", "4MiB", "--header-memory", "1MiB",
             "--model-root", "/sys/class/net/lo", "--model-root", "/proc/sys/vm")

    def test_every_scenario_passes(self):
        mock = scenario_runs.play(self.daemon, scenario_runs.SCENARIOS / "limits")
        self.assertEqual(mock.returncode, 0, mock.stdout + mock.stderr)
        self.succeed("health")


class TlsTest(daemon.DaemonTest):
    """A daemon that wants a certificate and a token; it is asked for those scenarios that differ over TLS."""

    def start(self, *flags, **options):
        self.ca = certificates.Authority(self.directory, "authority")
        server, self.client = self.ca.issue("server"), self.ca.issue("client")
        self.token = self.directory / "token"
        self.token.write_text("secret\n")
        tokens = self.directory / "tokens"
        tokens.write_text(f"mock admin {hashlib.sha256(b'secret').hexdigest()}\n")
        return super().start("--log-format", "json", "--listen", "localhost:0", "--tls-cert", server[0], "--tls-key", server[1],
                             "--tls-client-ca", self.ca.certificate, "--token-file", tokens, "--simulate-gpus", "2x1GiB@16MiB")

    def play(self, *options):
        start = next(json.loads(line) for line in self.daemon.log.read_text().splitlines() if '"event":"start"' in line)
        address = next(listen for listen in start["listen"].split(",") if not listen.startswith("unix:"))
        scenarios = [scenario_runs.SCENARIOS / f"{name}.json" for name in ("drop_call", "drop_connection", "garbage", "load_on_gpus")]
        return subprocess.run([daemon.BIN_DIR / "keyload-mock", "--server", address, "--work-dir", self.models, *scenarios,
                               "--tls-ca", self.ca.certificate, "--tls-cert", self.client[0], "--tls-key", self.client[1], *options],
                              capture_output=True, text=True, timeout=200)

    def test_scenarios_are_played_with_a_token(self):
        mock = self.play("--token-file", self.token, "--skip", "drop_connection")
        self.assertEqual(mock.returncode, 0, mock.stdout + mock.stderr)
        self.assertIn("\n3 passed, 0 failed\n", mock.stdout)

    def test_what_cannot_be_played_over_tls_says_so(self):
        mock = self.play("--token-file", self.token)
        self.assertEqual(mock.returncode, 1)
        self.assertRegex(mock.stdout, r"FAIL drop_connection .*over TLS cannot be cut")

    def test_without_a_token_scenarios_fail(self):
        mock = self.play()
        self.assertEqual(mock.returncode, 1)
        self.assertIn("TOKEN_MISSING", mock.stdout)

    def test_a_name_to_skip_that_is_not_there_is_an_error(self):
        mock = self.play("--skip", "nothing")
        self.assertEqual(mock.returncode, 2)
        self.assertIn("there is no scenario nothing", mock.stderr)


if __name__ == "__main__":
    unittest.main()
