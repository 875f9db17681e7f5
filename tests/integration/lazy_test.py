"""LAZY loads, and what makes their keys resident and lazy again."""

import os
import signal
import unittest

import safetensors

import checkpoints
import daemon
import layers
from layers import SLACK_BYTES, TENSOR, TENSOR_BYTES


class LazyLoadTest(layers.LayersTest):
    def test_a_lazy_load_reads_headers_and_takes_no_memory(self):
        moved = self.read_by(self.load_lazy)
        self.assertLessEqual(moved, checkpoints.header_bytes(self.source) + SLACK_BYTES)
        self.assertEqual(self.daemon.device_memory(), self.memory)

    def test_a_lazy_load_reports_every_key_as_lazy(self):
        report = self.load_lazy()
        self.assertEqual(report["outcome"], "COMPLETE")
        self.assertEqual((report["keys"]["loaded"], report["keys"]["lazy"]), (0, len(self.tensors)))
        self.assertEqual((report["bytes"]["read"], report["bytes"]["mapped"]), (0, 0))
        model = self.succeed("show", "m")
        self.assertEqual(model["state"], "LAZY")
        self.assertEqual((model["keys"]["loaded"], model["keys"]["lazy"]), (0, len(self.tensors)))
        self.assert_resident([])

    def test_reserve_now_reserves_what_the_keys_will_need(self):
        self.load_lazy("--reserve", "now")
        used, reserved, _ = self.daemon.device_memory()["cuda:0"]
        self.assertGreaterEqual(reserved, len(self.tensors) * TENSOR_BYTES)
        self.assert_resident([])
        self.succeed("materialize", "m")
        self.assert_resident(self.tensors)
        self.succeed("unload", "m")
        self.assert_memory(self.memory)

    def test_reserve_now_is_refused_where_the_memory_is_not_there(self):
        large = self.models / "large.safetensors"
        checkpoints.write_sparse_file(large, {"w": ("F32", [1024, 1024, 32])})
        self.refused(6, "DEVICE_OUT_OF_MEMORY", "load", "large", "--from", large, "--lazy", "--reserve", "now",
                     *self.placement)
        self.assert_memory(self.memory)

    def test_a_lazy_model_unloads(self):
        self.load_lazy()
        self.succeed("materialize", "m", "--include", "layers.0.*")
        self.succeed("unload", "m")
        self.assert_memory(self.memory)


class MaterializeTest(layers.LayersTest):
    def setUp(self):
        super().setUp()
        self.load_lazy()

    def materialize(self, *selection):
        return self.succeed("materialize", "m", *selection)

    def test_a_glob_makes_exactly_its_keys_resident(self):
        report = self.materialize("--include", "layers.3.*")
        self.assertEqual((report["outcome"], report["keys"]["selected"], report["keys"]["loaded"]), ("COMPLETE", 2, 2))
        self.assert_resident(self.layer(3))
        model = self.succeed("show", "m")
        self.assertEqual(model["state"], "PARTIAL")
        self.assertEqual((model["keys"]["loaded"], model["keys"]["lazy"]), (2, len(self.tensors) - 2))
        self.assert_reads_what_is_stored(self.layer(3))

    def test_a_part_reads_its_bytes_once(self):
        moved = self.read_by(lambda: self.materialize("--include", "layers.3.*"))
        self.assertGreaterEqual(moved, 2 * TENSOR_BYTES)
        self.assertLessEqual(moved, 1.05 * 2 * TENSOR_BYTES + SLACK_BYTES)
        moved = self.read_by(lambda: self.materialize("--include", "layers.3.*"))
        self.assertLessEqual(moved, SLACK_BYTES)

    def test_the_rest_reads_only_the_rest(self):
        self.materialize("--include", "layers.3.*")
        rest = (len(self.tensors) - 2) * TENSOR_BYTES
        moved = self.read_by(self.materialize)
        self.assertLessEqual(moved, 1.05 * rest + SLACK_BYTES)
        self.assert_resident(self.tensors)
        self.assertEqual(self.succeed("show", "m")["state"], "RESIDENT")
        self.assert_reads_what_is_stored(self.tensors)

    def test_a_report_without_a_key_to_read_says_so(self):
        self.materialize("--include", "layers.3.*")
        report = self.materialize("--include", "layers.3.*")
        self.assertEqual((report["outcome"], report["bytes"]["read"]), ("COMPLETE", 0))

    def test_excluded_keys_stay_lazy(self):
        self.materialize("--include", "layers.{3,4}.*", "--exclude", "*.mlp")
        self.assert_resident({"layers.3.attn", "layers.4.attn"})

    def test_a_file_of_keys_is_followed(self):
        names = self.directory / "names"
        names.write_text("layers.5.mlp\nlayers.7.attn\n")
        self.materialize("--keys", names)
        self.assert_resident({"layers.5.mlp", "layers.7.attn"})

    def test_a_long_file_of_keys_travels_as_a_document(self):
        source = self.models / "many.safetensors"
        names = [f"w.{i}" for i in range(1500)]
        checkpoints.write_file(source, dict.fromkeys(names, ("F32", [1])))
        self.load_lazy(model="many", source=source)
        file = self.directory / "names"
        file.write_text("\n".join(names[:1200]))
        self.succeed("materialize", "many", "--keys", file)
        self.assertEqual(self.keys("resident", "many"), set(names[:1200]))
        self.succeed("evict", "many", "--keys", file)
        self.assertEqual(self.keys("resident", "many"), set())

    def test_an_unknown_key_is_named(self):
        names = self.directory / "names"
        names.write_text("layers.0.attn\nno.such.key\n")
        error = self.refused(6, "KEY_NOT_FOUND", "materialize", "m", "--keys", names)
        self.assertIn("no.such.key", error["message"])
        self.assert_resident([])

    def test_an_unknown_model_is_named(self):
        self.refused(6, "MODEL_NOT_FOUND", "materialize", "nothing")
        self.refused(6, "MODEL_NOT_FOUND", "evict", "nothing")

    def test_reading_a_lazy_key_makes_just_that_resident(self):
        self.assert_reads_what_is_stored({"layers.6.attn"})
        self.assert_resident({"layers.6.attn"})

    def test_thirty_two_clients_read_their_keys_once(self):
        before = self.daemon.read_characters()
        clients = [self.daemon.popen("--json", "materialize", "m", "--include", "layers.[0-3].*") for _ in range(32)]
        for client in clients:
            out, err = client.communicate(timeout=daemon.COMMAND_SECONDS)
            result = daemon.Result(client.returncode, out, err)
            self.assertEqual((result.code, result.json["outcome"]), (0, "COMPLETE"), result)
        moved = self.daemon.read_characters() - before
        self.assertLessEqual(moved, 1.05 * 8 * TENSOR_BYTES + SLACK_BYTES)
        self.assert_resident(self.layer(0, 1, 2, 3))
        self.assert_reads_what_is_stored(self.layer(0, 1, 2, 3))


class MaterializeOnHostTest(MaterializeTest):
    """The same with copies in host memory."""

    placement = ("--device-map", "cpu", "--copy")


class MaterializeMappedTest(layers.LayersTest):
    placement = ("--device-map", "cpu")

    def test_mapped_keys_become_resident_without_memory(self):
        self.load_lazy()
        report = self.succeed("materialize", "m", "--include", "layers.3.*")
        self.assertEqual((report["outcome"], report["bytes"]["mapped"]), ("COMPLETE", 2 * TENSOR_BYTES))
        self.assert_resident(self.layer(3))
        self.assert_reads_what_is_stored(self.layer(3))
        self.succeed("evict", "m")
        self.assert_resident([])
        self.assert_memory(self.memory)


class EvictTest(layers.LayersTest):
    def test_evicted_memory_is_given_back_and_the_keys_come_again(self):
        self.load_lazy()
        self.succeed("materialize", "m", "--include", "layers.{3,4}.*")
        self.assertNotEqual(self.daemon.device_memory(), self.memory)
        freed = self.succeed("evict", "m", "--include", "layers.{3,4}.*")
        self.assertEqual(freed["tensors"], 4)
        self.assertGreaterEqual(freed["bytes"], 4 * TENSOR_BYTES)
        self.assertEqual(freed["leasedTensors"], 0)
        self.assert_memory(self.memory)
        self.assert_resident([])
        self.assertEqual(self.succeed("show", "m")["state"], "LAZY")
        self.succeed("materialize", "m", "--include", "layers.{3,4}.*")
        self.assert_reads_what_is_stored(self.layer(3, 4))

    def test_a_part_of_an_eagerly_loaded_model_can_be_evicted(self):
        self.succeed("load", "m", "--from", self.source, *self.placement)
        self.succeed("evict", "m", "--include", "layers.0.*")
        self.assert_resident(set(self.tensors) - self.layer(0))
        self.assert_reads_what_is_stored(self.tensors)  # brings them back

    def test_what_is_lazy_already_frees_nothing(self):
        self.load_lazy()
        freed = self.succeed("evict", "m")
        self.assertEqual((freed["tensors"], freed["bytes"]), (0, 0))

    def test_people_read_a_sentence(self):
        self.load_lazy()
        self.succeed("materialize", "m", "--include", "layers.3.*")
        result = self.daemon.command("evict", "m")
        self.assertEqual(result.code, 0, result)
        self.assertEqual(result.out, "m: 2 tensors evicted, 2.0 MiB freed\n")


class EvictTiedTest(layers.LayersTest):
    def test_a_tensor_that_two_keys_share_is_evicted_once(self):
        source = self.models / "tied.safetensors"
        checkpoints.write_file(source, {"embed": TENSOR})
        manifest = self.directory / "tied.json"
        tied = [{"source": "embed", "targets": ["head"]}]
        manifest.write_text(checkpoints.manifest({"embed": TENSOR, "head": TENSOR}, tiedGroups=tied))
        self.succeed("load", "tied", "--from", source, "--manifest", manifest, *self.placement)
        result = self.daemon.command("evict", "tied")
        self.assertEqual(result.out, "tied: 1 tensor evicted, 1.0 MiB freed\n")
        self.assertEqual(self.keys("lazy", "tied"), {"embed", "head"})


class ChangedCheckpointTest(layers.LayersTest):
    def setUp(self):
        super().setUp()
        self.load_lazy()
        other = self.models / "other.safetensors"
        checkpoints.write_file(other, {"w": TENSOR})
        self.load_lazy(model="other", source=other)
        self.shard = self.source / "model-00002-of-00003.safetensors"
        self.key = next(name for name in stored_keys(self.shard))

    def assert_noticed(self, *reasons):
        for command in (("materialize", "m", "--include", self.key),
                        ("read", "m", self.key, "--out", self.directory / "out.safetensors")):
            result = self.keyload(*command)
            self.assertEqual(result.code, 6, result)
            self.assertIn(result.error["reason"], reasons)
            self.assertIn(self.shard.name, result.error["message"])
        self.assertNotIn(self.key, self.keys("resident"))
        self.assert_memory(self.memory)
        self.assertEqual(self.succeed("materialize", "other")["outcome"], "COMPLETE")

    def test_a_rewritten_shard(self):
        content = self.shard.read_bytes()
        with open(self.shard, "r+b") as file:
            file.write(content)
        stat = self.shard.stat()
        os.utime(self.shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
        self.assert_noticed("CHECKPOINT_CHANGED")

    def test_a_shard_that_was_cut(self):
        os.truncate(self.shard, self.shard.stat().st_size // 2)
        self.assert_noticed("CHECKPOINT_CHANGED", "CHECKPOINT_TRUNCATED")

    def test_a_shard_that_grew(self):
        with open(self.shard, "ab") as file:
            file.write(b"more")
        self.assert_noticed("CHECKPOINT_CHANGED")


class SmallDeviceTest(layers.LayersTest):
    """A device that holds half of the model."""

    flags = ("--simulate-gpus", "1x10MiB")

    def test_what_does_not_fit_is_refused_and_nothing_is_lost(self):
        self.load_lazy()
        self.succeed("materialize", "m", "--include", "layers.0.*")
        memory = self.daemon.device_memory()
        error = self.refused(6, "DEVICE_OUT_OF_MEMORY", "materialize", "m")
        self.assertEqual(error["metadata"]["device"], "cuda:0")
        self.assert_memory(memory)
        self.assert_resident(self.layer(0))
        self.succeed("materialize", "m", "--include", "layers.1.*")
        self.assert_resident(self.layer(0, 1))
        self.assert_reads_what_is_stored(self.layer(0, 1))


class SlowDeviceTest(layers.LayersTest):
    """Clients that go away while their keys are on the way."""

    flags = ("--simulate-gpus", "1x64MiB@8MiB")

    def setUp(self):
        super().setUp()
        self.load_lazy()

    def start_materialize(self):
        client = self.daemon.popen("--json", "materialize", "m")
        while self.daemon.device_memory() == self.memory and client.poll() is None:
            pass  # each turn is a call to the daemon
        self.assertIsNone(client.poll(), "the client was done before it could be stopped")
        return client

    def assert_nothing_leaked(self):
        report = self.succeed("materialize", "m", "--include", "layers.0.*")
        self.assertEqual(report["outcome"], "COMPLETE")
        self.assert_reads_what_is_stored(self.layer(0))
        self.succeed("evict", "m")
        self.assert_memory(self.memory)

    def test_a_killed_client_leaves_nothing_behind(self):
        client = self.start_materialize()
        client.kill()
        client.communicate(timeout=daemon.COMMAND_SECONDS)
        self.assert_nothing_leaked()

    def test_an_interrupt_cancels_the_call(self):
        client = self.start_materialize()
        client.send_signal(signal.SIGINT)
        out, err = client.communicate(timeout=daemon.COMMAND_SECONDS)
        result = daemon.Result(client.returncode, out, err)
        self.assertEqual((result.code, result.error["code"]), (5, "CANCELLED"), result)
        self.assert_nothing_leaked()

    def test_a_deadline_ends_the_call(self):
        result = self.keyload("--timeout", "300ms", "materialize", "m")
        self.assertEqual((result.code, result.error["code"]), (5, "DEADLINE_EXCEEDED"), result)
        self.assert_nothing_leaked()


def stored_keys(path):
    return [name for name, _ in safetensors.deserialize(path.read_bytes())]


if __name__ == "__main__":
    unittest.main()
