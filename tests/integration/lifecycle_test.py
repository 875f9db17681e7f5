"""Starting, stopping and sharing a daemon, and the exit codes of the command."""

import subprocess
import unittest

import checkpoints
import daemon


class LifecycleTest(daemon.DaemonTest):
    def second_daemon(self, *flags):
        command = [daemon.BIN_DIR / "keyloadd", "--model-root", str(self.models), *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def test_a_second_daemon_on_the_socket_says_so_and_leaves_the_first_alone(self):
        second = self.second_daemon("--listen", self.daemon.address)
        self.assertNotEqual(second.returncode, 0)
        self.assertIn("keyload.sock", second.stdout + second.stderr)
        self.assertTrue(daemon.listening(self.daemon.address))
        self.succeed("health")

    def test_sigterm_ends_with_zero_and_removes_the_socket(self):
        self.assertEqual(self.daemon.stop(), 0)
        self.assertFalse((self.directory / "keyload.sock").exists())

    def test_a_daemon_starts_over_the_socket_of_one_that_was_killed(self):
        self.daemon.process.kill()
        self.daemon.process.wait()
        self._cleanups.pop()  # of the killed daemon, which cannot end with 0
        self.daemon = self.start(*self.flags)
        self.succeed("health")

    def test_an_invalid_flag_ends_the_daemon_with_its_name(self):
        second = self.second_daemon("--simulate-gpus", "lots")
        self.assertNotEqual(second.returncode, 0)
        self.assertIn("--simulate-gpus", second.stdout + second.stderr)

    def test_sigterm_ends_a_load_in_progress(self):
        slow = self.start_slow()
        source = self.models / "slow"
        checkpoints.write_sharded(source, {f"w.{i}": ("F32", [1024, 1024]) for i in range(16)}, 1)
        memory = slow.device_memory()
        client = slow.popen("--json", "load", "slow", "--from", source, "--device-map", "cuda:0")
        while slow.device_memory() == memory and client.poll() is None:
            pass  # each turn is a call to the daemon
        self.assertEqual(slow.stop(), 0)
        client.communicate(timeout=60)
        self.assertIn(client.returncode, (0, 3, 5, 6))

    def start_slow(self):
        self.daemon.stop()
        return self.start("--simulate-gpus", "1x1GiB@16MiB", "--grace", "200ms")


class SharedDaemonTest(daemon.DaemonTest):
    def test_ten_clients_load_ten_models_at_once(self):
        clients = []
        for i in range(10):
            path = self.models / f"model-{i}.safetensors"
            checkpoints.write_file(path, checkpoints.small_model(layers=i + 1))
            clients.append(self.daemon.popen("--json", "load", f"model-{i}", "--from", path, "--device-map", "auto"))
        for i, client in enumerate(clients):
            out, err = client.communicate(timeout=60)
            result = daemon.Result(client.returncode, out, err)
            self.assertEqual(result.code, 0, result)
            self.assertEqual((result.json["model"], result.json["keys"]["loaded"]), (f"model-{i}", 2 * i + 6))
        self.assertEqual(len(self.succeed("list")["models"]), 10)

    def test_the_same_load_twice_answers_with_the_same_generation(self):
        path = self.models / "one.safetensors"
        checkpoints.write_file(path, checkpoints.small_model())
        first = self.succeed("load", "one", "--from", path, "--device-map", "cuda:0")
        memory = self.daemon.device_memory()
        second = self.succeed("load", "one", "--from", path, "--device-map", "cuda:0")
        self.assertEqual((second["outcome"], second["generation"]), ("COMPLETE", first["generation"]))
        self.assertEqual(self.daemon.device_memory(), memory)

    def test_the_same_load_from_ten_clients_happens_once(self):
        path = self.models / "one.safetensors"
        checkpoints.write_file(path, checkpoints.small_model())
        clients = [self.daemon.popen("--json", "load", "one", "--from", path, "--device-map", "cuda:0")
                   for _ in range(10)]
        results = [daemon.Result(client.returncode, out, err)
                   for client in clients for out, err in [client.communicate(timeout=60)]]
        generations = {result.json["generation"] for result in results if result.code == 0}
        self.assertEqual(len(generations), 1, results)
        for result in results:
            if result.code != 0:
                self.assertEqual((result.code, result.error["reason"]), (6, "MODEL_BUSY"), result)

    def test_another_source_under_a_taken_name_is_refused(self):
        for name in ("one", "two"):
            checkpoints.write_file(self.models / f"{name}.safetensors", {name: ("F32", [1])})
        self.succeed("load", "taken", "--from", self.models / "one.safetensors")
        error = self.refused(6, "MODEL_EXISTS", "load", "taken", "--from", self.models / "two.safetensors")
        self.assertIn("taken", error["message"])


class ExitCodeTest(daemon.DaemonTest):
    flags = ("--simulate-gpus", "1x1GiB@16MiB")

    def setUp(self):
        super().setUp()
        self.path = self.models / "slow.safetensors"
        checkpoints.write_file(self.path, {f"w.{i}": ("F32", [1024, 1024]) for i in range(8)})

    def test_0_done(self):
        self.assertEqual(self.keyload("load", "m", "--from", self.path).code, 0)
        self.assertEqual(self.keyload("list").code, 0)

    def test_1_rejected(self):
        manifest = self.directory / "manifest.json"
        manifest.write_text(checkpoints.manifest({"other": ("F32", [1])}))
        result = self.keyload("load", "m", "--from", self.path, "--manifest", manifest, "--strict")
        self.assertEqual(result.code, 1, result)

    def test_2_bad_usage(self):
        self.assertEqual(self.keyload("load", "m").code, 2)
        self.assertEqual(self.keyload("no-such-command").code, 2)
        self.assertEqual(self.keyload("load", "m", "--from", self.path, "--max-memory", "lots").code, 2)

    def test_3_no_server(self):
        self.daemon.stop()
        result = self.keyload("list")
        self.assertEqual(result.code, 3, result)
        self.assertIn("keyload.sock", result.error["message"])

    def test_4_refused(self):
        self.refused(4, "PATH_NOT_ALLOWED", "load", "m", "--from", "/etc")

    def test_5_timed_out(self):
        memory = self.daemon.device_memory()
        result = self.keyload("--timeout", "500ms", "load", "m", "--from", self.path, "--device-map", "cuda:0")
        self.assertEqual(result.code, 5, result)
        self.assert_memory(memory)

    def test_6_failed(self):
        self.refused(6, "CHECKPOINT_NOT_FOUND", "load", "m", "--from", self.models / "nothing")


if __name__ == "__main__":
    unittest.main()
