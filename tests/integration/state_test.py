"""What a daemon with --state-dir knows again after a restart."""

import shutil
import time
import unittest

import checkpoints
import daemon

SHAPE = ("F32", [64, 64])
TENSORS = {f"model.layers.{i}.weight": SHAPE for i in range(6)}


class StateTest(daemon.DaemonTest):
    def setUp(self):
        self.flags = ("--simulate-gpus", "2x1GiB")
        super().setUp()
        self.daemon.stop()
        self.source = self.models / "m"
        checkpoints.write_sharded(self.source, TENSORS, 2)
        self.state = self.directory / "state"
        self.flags = (*self.flags, "--state-dir", str(self.state))
        self.daemon = self.start(*self.flags)

    def restart(self, *flags, killed=False):
        if killed:
            self.daemon.process.kill()
            self.daemon.process.wait()
            self._cleanups.pop()  # of the killed daemon, which cannot end with 0
        else:
            self.daemon.stop()
        self.daemon = self.start(*self.flags, *flags)

    def models_by_name(self):
        return {model["name"]: model for model in self.succeed("list")["models"]}

    def wait_for(self, states, **selected):
        """The models, once those that come back have these states and, of those named, so many selected keys."""
        deadline = time.monotonic() + 60
        while True:  # each turn is a call to the daemon
            models = self.models_by_name()
            watched = {name: model["state"] for name, model in models.items()}
            if watched == states and all(models[name]["keys"]["selected"] == keys for name, keys in selected.items()):
                return models
            self.assertLess(time.monotonic(), deadline, watched)

    def read(self, model, key):
        out = self.directory / "out.safetensors"
        self.succeed("read", model, key, "--out", out)
        return out.read_bytes()

    def records(self, kind):
        return sorted(path.name for path in (self.state / kind).iterdir())

    def test_models_maps_and_reports_survive_a_stop_and_a_kill(self):
        manifest = self.directory / "manifest.json"
        manifest.write_text(checkpoints.manifest(TENSORS | {"head.weight": SHAPE}))
        first = self.succeed("load", "wide", "--from", self.source, "--manifest", manifest, "--device-map", "cuda:0",
                             "--include", "model.layers.{0..2}.*", "--request-id", "one")
        self.succeed("load", "wide", "--from", self.source, "--manifest", manifest, "--device-map", "cuda:0",
                     "--include", "model.layers.{3..4}.*", "--if-exists", "extend")
        self.succeed("load", "plain", "--from", self.source)
        self.succeed("load", "gone", "--from", self.source)
        self.succeed("unload", "gone")
        self.refused(6, "CHECKPOINT_NOT_FOUND", "load", "bad", "--from", self.models / "nothing")
        kept = self.succeed("map", "set", "gpu", "--device-map", "cuda:1")
        self.succeed("map", "set", "other", "--device-map", "cpu")
        self.succeed("map", "rm", "other")
        bytes_before = self.read("wide", "model.layers.1.weight")
        reports = {load["load"]: load for load in self.succeed("loads")["loads"]}
        generation = max(model["generation"] for model in self.models_by_name().values())

        for killed in (False, True):
            self.restart(killed=killed)
            models = self.wait_for({"plain": "LAZY", "wide": "LAZY"}, wide=5)
            self.assertEqual(models["wide"]["keys"]["lazy"], 5)
            self.assertEqual(models["wide"]["keys"]["expected"], 7, "the manifest is known, which was uploaded")
            self.assertGreater(min(model["generation"] for model in models.values()), generation)
            generation = max(model["generation"] for model in models.values())
            self.assertEqual(self.daemon.device_memory()["cuda:0"][:2], (0, 0))
            self.assertEqual(self.read("wide", "model.layers.1.weight"), bytes_before)
            loads = {load["load"]: load for load in self.succeed("loads")["loads"]}
            self.assertEqual({name: loads[name] for name in reports}, reports)
            again = self.succeed("load", "wide", "--from", self.source, "--manifest", manifest, "--device-map",
                                 "cuda:0", "--include", "model.layers.{0..2}.*", "--request-id", "one")
            self.assertEqual(again, first, "the answer of the request id")
            self.assertEqual([kept], self.succeed("map", "list")["deviceMaps"])
            self.assertEqual(self.succeed("plan", "x", "--from", self.source, "--device-map", "@gpu")["deviceMap"],
                             {"": "cuda:1"})
            reused = self.succeed("load", "plain", "--from", self.source)
            self.assertEqual(reused["generation"], models["plain"]["generation"], "the same request finds the model")

        self.succeed("load", "plain", "--from", self.source, "--include", "model.layers.5.*", "--if-exists", "replace")
        self.succeed("unload", "wide")
        self.restart()
        models = self.wait_for({"plain": "LAZY"})
        self.assertEqual(models["plain"]["keys"]["selected"], 1)
        self.assertEqual(self.records("models"), ["plain"])

    def test_models_come_back_as_the_operator_says(self):
        self.succeed("load", "eager", "--from", self.source, "--device-map", "cuda:0")
        self.succeed("load", "warm", "--from", self.source, "--warm")
        self.succeed("load", "strict", "--from", self.source, "--strict")
        memory = self.daemon.device_memory()["cuda:0"]
        self.restart("--restore", "load")
        self.wait_for({"eager": "RESIDENT", "strict": "RESIDENT", "warm": "LAZY"})
        self.assertEqual(self.daemon.device_memory()["cuda:0"], memory)
        self.restart("--restore", "none")
        self.assertEqual(self.models_by_name(), {})
        self.restart()
        self.wait_for({"eager": "LAZY", "strict": "LAZY", "warm": "LAZY"})

    def test_a_model_whose_files_are_gone_is_tried_again_by_the_next_run(self):
        self.succeed("load", "m", "--from", self.source)
        self.source.rename(self.models / "elsewhere")
        self.restart()
        self.succeed("load", "other", "--from", self.models / "elsewhere")  # after those that are restored
        self.assertEqual(list(self.models_by_name()), ["other"])
        self.assertIn("model not restored model=m reason=CHECKPOINT_NOT_FOUND", self.daemon.log.read_text())
        (self.models / "elsewhere").rename(self.source)
        self.restart()
        self.wait_for({"m": "LAZY"})

    def test_a_corrupt_record_costs_itself_alone(self):
        for name in ("one", "two"):
            self.succeed("load", name, "--from", self.source)
        self.succeed("map", "set", "gpu", "--device-map", "cuda:1")
        self.daemon.stop()
        record = self.state / "models" / "one"
        record.write_bytes(record.read_bytes()[:-1])
        (self.state / "maps" / "gpu").write_bytes(b"keyload state 1 nonsense")
        (self.state / "loads" / "load-000001").write_bytes(b"")
        (self.state / "runs" / "first_number").write_bytes(b"\0" * 10)
        self.restart()
        self.wait_for({"two": "LAZY"})
        self.assertEqual(self.succeed("map", "list")["deviceMaps"], [])
        self.assertEqual(self.records("aside"),
                         ["loads-load-000001", "maps-gpu", "models-one", "runs-first_number"])
        self.assertEqual(self.daemon.log.read_text().count("state set aside"), 4)

    def test_a_disk_that_cannot_be_written_costs_no_request_and_brings_back_nothing_old(self):
        self.succeed("load", "m", "--from", self.source)
        (self.state / "models" / ".half-m").mkdir()  # in the way of the next record
        self.succeed("load", "m", "--from", self.source, "--include", "model.layers.5.*", "--if-exists", "replace")
        self.succeed("load", "m", "--from", self.source, "--include", "model.layers.{4,5}.*", "--if-exists", "extend")
        self.assertIn("state not kept", self.daemon.log.read_text())
        self.assertEqual(self.records("models"), [".half-m"])
        shutil.rmtree(self.state / "loads")
        self.succeed("unload", "m")
        self.succeed("load", "n", "--from", self.source)
        self.restart()
        self.wait_for({"n": "LAZY"})

    def test_more_models_than_loads_may_wait_come_back_and_push_out_no_reports(self):
        self.restart("--load-queue", "1", "--concurrent-loads", "1")
        names = [f"m{i}" for i in range(8)]
        for name in names:
            self.succeed("load", name, "--from", self.source)
        reports = self.succeed("loads")["loads"]
        self.restart("--load-queue", "1", "--concurrent-loads", "1")
        self.wait_for(dict.fromkeys(names, "LAZY"))
        self.assertEqual(self.succeed("loads")["loads"], reports)

    def test_two_daemons_do_not_share_a_directory(self):
        second = self.daemon.spawn("--listen", f"unix:{self.directory}/second.sock", "--state-dir", str(self.state))
        self.assertEqual(second.wait(timeout=60), 6)
        self.assertIn("another keyloadd keeps its state there", self.daemon.log.read_text())

    def test_a_directory_that_cannot_be_made_is_refused(self):
        (self.directory / "file").write_text("")
        second = self.daemon.spawn("--listen", f"unix:{self.directory}/second.sock", "--state-dir",
                                   str(self.directory / "file" / "state"))
        self.assertEqual(second.wait(timeout=60), 6)
        self.assertIn("cannot keep state in", self.daemon.log.read_text())

    def test_a_name_from_outside_reaches_no_other_file(self):
        (self.state / "victim").write_text("x")
        self.succeed("unload", "../victim")
        self.assertTrue((self.state / "victim").exists())


if __name__ == "__main__":
    unittest.main()
