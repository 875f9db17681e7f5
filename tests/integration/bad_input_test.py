"""Wrong files, paths, devices and clients: each costs one load, named and typed, and nothing else."""

import json
import os
import signal
import struct
import time
import unittest

import checkpoints
import daemon


class BadInputTest(daemon.DaemonTest):
    def setUp(self):
        super().setUp()
        self.memory = self.daemon.device_memory()
        self.good = self.models / "good"
        checkpoints.write_sharded(self.good, checkpoints.small_model(), 2)

    def write_raw(self, name, head, data=b""):
        path = self.models / name / "model.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(head + data)
        return path

    def assert_refused_and_unharmed(self, code, reason, subjects, *arguments):
        """The load fails as said, names its subjects, leaves the memory of before, and the next load works."""
        error = self.refused(code, reason, *arguments)
        for subject in subjects:
            self.assertIn(subject, error["message"])
        self.assert_memory(self.memory)
        report = self.succeed("load", "next", "--from", self.good, "--device-map", "cuda:1")
        self.assertEqual(report["outcome"], "COMPLETE")
        self.succeed("unload", "next")
        self.assert_memory(self.memory)

    def test_a_truncated_shard(self):
        source = self.models / "cut"
        checkpoints.write_sharded(source, checkpoints.small_model(), 3)
        shard = source / "model-00003-of-00003.safetensors"
        os.truncate(shard, shard.stat().st_size - 100)
        self.assert_refused_and_unharmed(6, "CHECKPOINT_TRUNCATED", [shard.name], "load", "m", "--from", source,
                                         "--device-map", "cuda:0")

    def test_overlapping_offsets(self):
        entries = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
                   "overlaps": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}
        path = self.write_raw("overlap", checkpoints.raw_header(entries), bytes(24))
        self.assert_refused_and_unharmed(6, "CHECKPOINT_CORRUPT", ["model.safetensors", "overlaps"], "load", "m",
                                         "--from", path)

    def test_a_hole_between_tensors(self):
        entries = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
                   "late": {"dtype": "F32", "shape": [4], "data_offsets": [20, 36]}}
        path = self.write_raw("hole", checkpoints.raw_header(entries), bytes(36))
        self.assert_refused_and_unharmed(6, "CHECKPOINT_CORRUPT", ["model.safetensors", "late"], "load", "m",
                                         "--from", path)

    def test_a_header_length_of_two_to_the_63(self):
        path = self.write_raw("huge", struct.pack("<Q", 2**63), b"{}" + bytes(100))
        self.assert_refused_and_unharmed(6, "CHECKPOINT_CORRUPT", ["model.safetensors", "00 00 00 00 00 00 00 80"],
                                         "load", "m", "--from", path)

    def test_an_index_that_names_a_file_above(self):
        source = self.models / "escape"
        source.mkdir()
        checkpoints.write_file(self.models / "x", {"w": ("F32", [2])})
        checkpoints.write_index(source, {"w": "../x"})
        self.assert_refused_and_unharmed(6, "CHECKPOINT_CORRUPT", ["model.safetensors.index.json", "../x"], "load",
                                         "m", "--from", source)

    def test_a_path_outside_the_roots(self):
        outside = self.directory / "outside"
        checkpoints.write_file(outside / "model.safetensors", {"w": ("F32", [2])})
        self.assert_refused_and_unharmed(4, "PATH_NOT_ALLOWED", [str(outside)], "load", "m", "--from", outside)

    def test_a_path_that_climbs_out_of_its_root(self):
        outside = self.directory / "outside"
        checkpoints.write_file(outside / "model.safetensors", {"w": ("F32", [2])})
        path = f"{self.models}/good/../../outside"
        self.assert_refused_and_unharmed(4, "PATH_NOT_ALLOWED", ["outside"], "load", "m", "--from", path)

    def test_a_symlink_that_leaves_the_roots(self):
        outside = self.directory / "outside"
        checkpoints.write_file(outside / "model.safetensors", {"w": ("F32", [2])})
        (self.models / "link").symlink_to(outside)
        self.assert_refused_and_unharmed(4, "PATH_NOT_ALLOWED", ["link"], "load", "m", "--from", self.models / "link")

    def test_a_shard_that_is_a_symlink_out_of_the_roots(self):
        outside = self.directory / "secret.safetensors"
        checkpoints.write_file(outside, {"w": ("F32", [2])})
        source = self.models / "linked-shard"
        source.mkdir()
        (source / "model.safetensors").symlink_to(outside)
        self.assert_refused_and_unharmed(4, "PATH_NOT_ALLOWED", ["model.safetensors"], "load", "m", "--from", source)

    def test_a_path_that_is_absent(self):
        self.assert_refused_and_unharmed(6, "CHECKPOINT_NOT_FOUND", ["nothing-here"], "load", "m", "--from",
                                         self.models / "nothing-here")

    def test_a_full_device(self):
        source = self.models / "large"
        source.mkdir()
        checkpoints.write_sparse_file(source / "model.safetensors",
                                      {f"w.{i}": ("F32", [1024, 1024, 64]) for i in range(5)})  # 1.25 GiB of 1 GiB
        self.assert_refused_and_unharmed(6, "DEVICE_OUT_OF_MEMORY", ["cuda:0"], "load", "m", "--from", source,
                                         "--device-map", "cuda:0")

    def test_an_unknown_device(self):
        self.assert_refused_and_unharmed(6, "DEVICE_UNKNOWN", ["cuda:9"], "load", "m", "--from", self.good,
                                         "--device-map", "cuda:9")

    def test_a_map_without_a_device_for_every_tensor(self):
        device_map = self.directory / "map.json"
        device_map.write_text(json.dumps({"model.layers": "cuda:0"}))
        self.assert_refused_and_unharmed(6, "DEVICE_MAP_INCOMPLETE", ["model."], "load", "m", "--from", self.good,
                                         "--device-map", device_map)

    def test_a_manifest_that_names_a_tensor_twice(self):
        manifest = self.directory / "manifest.json"
        tensor = {"name": "twice.weight", "dtype": "F32", "shape": [1]}
        manifest.write_text(json.dumps({"tensors": [tensor, tensor]}))
        self.assert_refused_and_unharmed(6, "MANIFEST_INVALID", ["twice.weight"], "load", "m", "--from", self.good,
                                         "--manifest", manifest)

    def test_a_field_of_a_later_release(self):
        self.assert_refused_and_unharmed(6, "FIELD_NOT_SUPPORTED", ["missing"], "load", "m", "--from", self.good,
                                         "--missing", "zeros")


class KilledClientTest(daemon.DaemonTest):
    flags = ("--simulate-gpus", "1x1GiB@16MiB")

    def test_a_client_that_is_killed_takes_its_load_with_it(self):
        memory = self.daemon.device_memory()
        source = self.models / "slow"
        checkpoints.write_sharded(source, {f"w.{i}": ("F32", [1024, 1024]) for i in range(32)}, 2)
        client = self.daemon.popen("--json", "load", "slow", "--from", source, "--device-map", "cuda:0")
        deadline = time.monotonic() + 30
        while self.daemon.device_memory() == memory and time.monotonic() < deadline:
            pass  # each turn is a call to the daemon
        self.assertNotEqual(self.daemon.device_memory(), memory, "the load has begun")
        client.send_signal(signal.SIGKILL)
        client.communicate()
        self.assert_memory(memory)
        deadline = time.monotonic() + 10
        while self.keyload("show", "slow").code == 0 and time.monotonic() < deadline:
            pass
        self.refused(6, "MODEL_NOT_FOUND", "show", "slow")
        checkpoints.write_file(self.models / "next.safetensors", {"w": ("F32", [8])})
        report = self.succeed("load", "slow", "--from", self.models / "next.safetensors")
        self.assertEqual(report["outcome"], "COMPLETE")


if __name__ == "__main__":
    unittest.main()
