"""Loads as things with an identity: many clients, a killed daemon, clients that come back."""

import unittest

import checkpoints
import daemon

MODEL_BYTES = 16 << 20


class IdentityTest(daemon.DaemonTest):
    flags = ("--simulate-gpus", "1x1GiB@16MiB")  # a load takes a second

    def setUp(self):
        super().setUp()
        self.source = self.models / "big"
        checkpoints.write_sharded(self.source, {f"w.{i}": ("F32", [1024, 1024]) for i in range(4)}, 2)
        self.load = ("load", "big", "--from", self.source, "--device-map", "cuda:0")

    def wait_until_it_loads(self):
        while self.daemon.device_memory()["cuda:0"][:2] == (0, 0):
            pass  # each turn is a call to the daemon

    def test_32_clients_at_the_same_moment_are_one_load(self):
        before = self.daemon.read_characters()
        clients = [self.daemon.popen("--json", *self.load) for _ in range(32)]
        reports = []
        for client in clients:
            out, err = client.communicate(timeout=60)
            self.assertEqual(client.returncode, 0, out + err)
            reports.append(out)
        self.assertEqual(len(set(reports)), 1, "32 equal reports")
        moved = self.daemon.read_characters() - before
        self.assertGreaterEqual(moved, MODEL_BYTES)
        self.assertLess(moved, MODEL_BYTES * 1.1, "the tensors were read once")
        self.assertEqual(len(self.succeed("loads")["loads"]), 1)

    def test_a_daemon_killed_in_mid_load_loads_once_when_the_client_retries(self):
        request = (*self.load, "--request-id", "deploy-7")
        client = self.daemon.popen("--json", *request)
        self.wait_until_it_loads()
        self.daemon.process.kill()
        self.daemon.process.wait()
        self._cleanups.pop()  # of the killed daemon, which cannot end with 0
        out, err = client.communicate(timeout=60)
        self.assertEqual(client.returncode, 3, out + err)
        self.daemon = self.start(*self.flags)
        first = self.succeed(*request)
        self.assertEqual(first["outcome"], "COMPLETE")
        self.assertEqual(self.succeed(*request), first)
        self.assertEqual([load["load"] for load in self.succeed("loads")["loads"]], [first["load"]])

    def test_a_detached_load_is_waited_for_listed_and_cancelled(self):
        accepted = self.succeed(*self.load, "--detach")
        listed = self.succeed("loads")["loads"]
        self.assertEqual([load["load"] for load in listed], [accepted["load"]])
        report = self.succeed("wait", accepted["load"])
        self.assertEqual((report["load"], report["outcome"]), (accepted["load"], "COMPLETE"))
        self.succeed("unload", "big")
        memory = self.daemon.device_memory()
        accepted = self.succeed(*self.load, "--detach")
        self.succeed("cancel", accepted["load"])
        result = self.keyload("wait", accepted["load"])
        self.assertEqual((result.code, result.json["outcome"]), (5, "CANCELLED"), result)
        self.assert_memory(memory)
        self.refused(6, "LOAD_NOT_FOUND", "wait", "load-000999")

    def test_replace_swaps_the_model_and_another_request_id_is_another_load(self):
        self.succeed(*self.load, "--request-id", "one")
        other = self.models / "other.safetensors"
        checkpoints.write_file(other, {"v": ("F32", [8])})
        report = self.succeed("load", "big", "--from", other, "--if-exists", "replace", "--request-id", "two")
        self.assertEqual(report["keys"]["loaded"], 1)
        self.assertEqual(self.daemon.device_memory()["cuda:0"][0], 0, "the old one is gone")
        self.refused(6, "REQUEST_ID_REUSED", *self.load, "--request-id", "two")

    def test_a_map_that_is_kept_by_name(self):
        self.succeed("map", "set", "gpu", "--device-map", "cuda:0")
        report = self.succeed("plan", "big", "--from", self.source, "--device-map", "@gpu")
        self.assertEqual(report["deviceMap"], {"": "cuda:0"})
        self.assertEqual([m["name"] for m in self.succeed("map", "list")["deviceMaps"]], ["gpu"])
        self.succeed("map", "rm", "gpu")
        self.refused(6, "DEVICE_MAP_NOT_FOUND", "plan", "big", "--from", self.source, "--device-map", "@gpu")


if __name__ == "__main__":
    unittest.main()
