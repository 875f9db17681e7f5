"""Which load runs when: priorities, waiting for memory, and a full queue that says when to come again."""

import unittest

import checkpoints
import daemon

# Takes the memory and copies nothing to the slow device.
RESERVING = ("--device-map", "cuda:0", "--lazy", "--reserve", "now")


class AdmissionTest(daemon.DaemonTest):
    flags = ("--simulate-gpus", "1x24MiB@2MiB", "--concurrent-loads", "1", "--load-queue", "2")  # a load takes eight seconds

    def setUp(self):
        super().setUp()
        self.source = self.models / "big"
        checkpoints.write_sharded(self.source, {f"w.{i}": ("F32", [1024, 1024]) for i in range(4)}, 2)

    def load(self, model, *options):
        return self.daemon.popen("--json", "load", model, "--from", self.source, *options)

    def loads(self):
        return {load["model"]: load for load in self.succeed("loads")["loads"]}

    def progress_of(self, model):
        progress = self.loads().get(model, {}).get("progress")
        return progress or {"phase": "", "queuePosition": 0}

    def finish(self, client, code):
        out, err = client.communicate(timeout=60)
        self.assertEqual(client.returncode, code, out + err)
        return daemon.Result(client.returncode, out, err).json

    def test_a_load_waits_for_the_memory_of_another_model(self):
        self.finish(self.load("first", *RESERVING), 0)
        refused = self.finish(self.load("second", *RESERVING), 6)["error"]
        self.assertEqual((refused["reason"], refused["metadata"]["device"]), ("DEVICE_OUT_OF_MEMORY", "cuda:0"))
        late = self.finish(self.load("second", *RESERVING, "--wait-memory", "0.2"), 6)["error"]
        self.assertEqual(late["reason"], "DEVICE_OUT_OF_MEMORY")
        self.assertIn("waited 200ms for memory", late["message"])
        second = self.load("second", *RESERVING, "--wait-memory", "60")
        while self.progress_of("second")["phase"] != "memory":
            pass  # each turn is a call to the daemon
        self.succeed("unload", "first")
        self.assertEqual(self.finish(second, 0)["outcome"], "COMPLETE")

    def test_priorities_and_a_full_queue(self):
        running = self.load("running", "--device-map", "cuda:0")
        while self.daemon.device_memory()["cuda:0"][:2] == (0, 0):
            pass
        plain = self.load("plain")
        while self.progress_of("plain")["queuePosition"] != 1:
            pass
        urgent = self.load("urgent", "--priority", "5")
        while (self.progress_of("urgent")["queuePosition"], self.progress_of("plain")["queuePosition"]) != (1, 2):
            pass
        error = self.refused(6, "LOAD_QUEUE_FULL", "load", "refused", "--from", self.source)
        self.assertGreaterEqual(int(error["metadata"]["retry_delay_seconds"]), 1)
        self.succeed("cancel", self.loads()["plain"]["load"])
        self.assertEqual(self.finish(plain, 5)["error"]["reason"], "LOAD_CANCELLED")
        self.assertFalse(self.loads()["running"]["done"], "its end was told at once")
        self.finish(urgent, 0)
        self.finish(running, 0)


if __name__ == "__main__":
    unittest.main()
