"""Manifests whose conversions make keys of stored keys: the bytes are those that numpy puts together."""

import os
import unittest

import numpy
import safetensors.numpy

import checkpoints
import daemon

LAYERS, EXPERTS, HIDDEN, INNER = 2, 12, 64, 48
CONVERSIONS = [
    {"sources": [".experts.*.gate.weight", ".experts.*.up.weight"], "targets": [".experts.gate_up"],
     "operations": [{"kind": "KIND_STACK", "dims": [0]}, {"kind": "KIND_CONCATENATE", "dims": [1]}]},
    {"sources": [".experts.*.down.weight"], "targets": [".experts.down"],
     "operations": [{"kind": "KIND_STACK", "dims": [0]}]},
    {"sources": ["attn.q.weight", "attn.k.weight", "attn.v.weight"], "targets": ["attn.qkv.weight"],
     "operations": [{"kind": "KIND_CONCATENATE", "dims": [0]}]},
    {"sources": ["attn.ab.weight"], "targets": ["attn.a.weight", "attn.b.weight"],
     "operations": [{"kind": "KIND_CHUNK", "dims": [0]}]},
]


def stored_tensors():
    """{name: array} as a checkpoint has them, in the order of their text as safetensors writes them."""
    random = numpy.random.default_rng(5)
    shapes = {"norm.weight": (7,)}
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            module = f"layers.{layer}.experts.{expert}"
            shapes |= {f"{module}.gate.weight": (INNER, HIDDEN), f"{module}.up.weight": (INNER, HIDDEN),
                       f"{module}.down.weight": (HIDDEN, INNER)}
        shapes |= {f"layers.{layer}.attn.{part}.weight": (rows, HIDDEN)
                   for part, rows in (("q", 32), ("k", 8), ("v", 16), ("ab", 10))}
    return {name: random.standard_normal(shapes[name], dtype=numpy.float32) for name in sorted(shapes)}


def made_tensors(stored):
    """What the conversions make of them."""
    made = {"norm.weight": stored["norm.weight"]}
    for layer in range(LAYERS):
        def experts(part):
            return numpy.stack([stored[f"layers.{layer}.experts.{i}.{part}.weight"] for i in range(EXPERTS)])
        attention = f"layers.{layer}.attn"
        a, b = numpy.split(stored[f"{attention}.ab.weight"], 2)
        made |= {f"layers.{layer}.experts.gate_up": numpy.concatenate([experts("gate"), experts("up")], axis=1),
                 f"layers.{layer}.experts.down": experts("down"),
                 f"{attention}.qkv.weight": numpy.concatenate([stored[f"{attention}.{part}.weight"] for part in "qkv"]),
                 f"{attention}.a.weight": a, f"{attention}.b.weight": b}
    return made


class ConversionsTest(daemon.DaemonTest):
    def setUp(self):
        super().setUp()
        self.stored = stored_tensors()
        self.made = made_tensors(self.stored)
        self.source = self.models / "experts"
        self.manifest = self.directory / "manifest.json"
        self.write_manifest(CONVERSIONS)
        self.write()

    def write_manifest(self, conversions):
        shapes = {name: ("F32", list(array.shape)) for name, array in self.made.items()}
        self.manifest.write_text(checkpoints.manifest(shapes, conversions=conversions))

    def write(self, shards=3):
        """Shards that cut across layers and experts."""
        self.source.mkdir(exist_ok=True)
        weight_map, names = {}, sorted(self.stored)
        for i in range(shards):
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            part = names[len(names) * i // shards:len(names) * (i + 1) // shards]
            safetensors.numpy.save_file({name: self.stored[name] for name in part}, self.source / file)
            weight_map |= dict.fromkeys(part, file)
        checkpoints.write_index(self.source, weight_map)

    def load(self, *more):
        return self.succeed("load", "m", "--from", self.source, "--manifest", self.manifest, *more)

    def plan(self):
        return self.succeed("plan", "m", "--from", self.source, "--manifest", self.manifest, "--report-only")

    def assert_reads(self, keys):
        out = self.directory / "read.safetensors"
        self.succeed("read", "m", *keys, "--out", out)
        found = safetensors.numpy.load_file(out)
        self.assertEqual(set(found), set(keys))
        for key in keys:
            numpy.testing.assert_array_equal(found[key], self.made[key], err_msg=key)

    def key(self, name):
        return next(key for key in self.succeed("keys", "m")["keys"] if key["key"] == name)

    def assert_loads(self, *more):
        report = self.load(*more)
        self.assertEqual(report["outcome"], "COMPLETE")
        self.assertEqual(report["keys"]["loaded"] + report["keys"]["lazy"], len(self.made))
        self.assertEqual((report["keys"]["unexpected"], report["warnings"]), (0, []))
        self.assert_reads(list(self.made))
        return report

    def test_the_host_has_what_numpy_makes(self):
        report = self.assert_loads("--device-map", "cpu")
        mapped = sum(self.made[key].nbytes for key in self.made if ".a." in key or ".b." in key or "norm" in key)
        self.assertEqual(report["bytes"]["mapped"], mapped, "a part of one tensor stays in its file")
        copied = sum(a.nbytes for a in self.made.values()) - mapped
        self.assertGreaterEqual(report["bytes"]["read"], copied)
        self.assertLess(report["bytes"]["read"], copied * 1.05, "each byte once, and small gaps")

    def test_a_gpu_has_what_numpy_makes(self):
        self.assert_loads("--device-map", "cuda:0")

    def test_copies_on_the_host_are_what_numpy_makes(self):
        self.assert_loads("--device-map", "cpu", "--copy")

    def test_keys_on_disk_are_read_part_by_part(self):
        self.assert_loads("--device-map", "disk")

    def test_a_key_is_lazy_resident_and_lazy_again_as_a_whole(self):
        self.load("--device-map", "cuda:0", "--lazy")
        key = "layers.1.experts.gate_up"
        self.assertEqual(self.key(key)["state"], "LAZY")
        report = self.succeed("materialize", "m", "--include", key)
        self.assertEqual((report["keys"]["loaded"], report["bytes"]["selected"]), (1, self.made[key].nbytes))
        self.assertEqual(self.key(key)["state"], "RESIDENT")
        self.assert_reads([key])
        self.assertEqual(self.succeed("evict", "m", "--include", key)["tensors"], 1)
        self.assertEqual(self.key(key)["state"], "LAZY")
        self.assert_reads([key, "layers.0.attn.qkv.weight"])

    def test_a_load_is_extended_by_keys_of_parts(self):
        self.load("--device-map", "cuda:0", "--include", "layers.0.*")
        self.load("--device-map", "cuda:0", "--include", "layers.1.*", "--if-exists", "extend")
        self.assert_reads([key for key in self.made if key != "norm.weight"])

    def test_a_key_is_listed_with_its_size_and_its_first_part(self):
        self.load("--device-map", "cuda:0")
        entry = self.key("layers.0.experts.down")
        self.assertEqual((entry["shape"], entry["bytes"]), ([EXPERTS, HIDDEN, INNER], EXPERTS * HIDDEN * INNER * 4))
        with safetensors.safe_open(self.source / entry["shard"], "numpy") as shard:
            self.assertIn("layers.0.experts.0.down.weight", shard.keys())

    @unittest.skipUnless(daemon.WITH_TORCH, "built without LibTorch")
    def test_elements_are_converted(self):
        self.load("--device-map", "cuda:0", "--dtype", "F16")
        out = self.directory / "read.safetensors"
        self.succeed("read", "m", *self.made, "--out", out)
        for key, found in safetensors.numpy.load_file(out).items():
            numpy.testing.assert_array_equal(found, self.made[key].astype(numpy.float16), err_msg=key)

    def test_a_converted_checkpoint_is_taken_as_it_is(self):
        self.stored = self.made
        self.write()
        self.assert_loads("--device-map", "cpu")

    def test_a_missing_expert_is_named_and_its_key_is_missing(self):
        del self.stored["layers.1.experts.5.up.weight"]
        self.write()
        report = self.load("--device-map", "cuda:0", "--report-only")
        self.assertEqual((report["outcome"], report["missingKeys"]), ("INCOMPLETE", ["layers.1.experts.gate_up"]))
        self.assertEqual(report["unexpectedKeys"], [])
        self.assertEqual(report["warnings"], ["layers.1.experts.gate_up is missing: it lacks 1 stored key: "
                                              "layers.1.experts.5.up.weight"])
        self.assert_reads([key for key in self.made if key != "layers.1.experts.gate_up"])

    def test_an_expert_of_another_shape_is_named(self):
        self.stored["layers.0.experts.11.down.weight"] = numpy.zeros((HIDDEN, INNER + 1), numpy.float32)
        self.write()
        report = self.plan()
        entry, = report["mismatchedKeys"]
        self.assertEqual((entry["key"], entry["foundShape"]), ("layers.0.experts.down", [HIDDEN, INNER + 1]))
        self.assertIn("layers.0.experts.11.down.weight", report["warnings"][0])

    def test_an_expert_too_many_is_another_shape(self):
        self.stored["layers.0.experts.12.down.weight"] = numpy.zeros((HIDDEN, INNER), numpy.float32)
        self.write()
        entry, = self.plan()["mismatchedKeys"]
        self.assertEqual((entry["key"], entry["foundShape"]), ("layers.0.experts.down", [EXPERTS + 1, HIDDEN, INNER]))

    def test_an_operation_that_reorders_bytes_is_refused_by_name(self):
        turned = [dict(CONVERSIONS[1], operations=[{"kind": "KIND_STACK", "dims": [0]},
                                                   {"kind": "KIND_TRANSPOSE", "dims": [1, 2]}])]
        self.write_manifest(turned)
        error = self.refused(6, "FIELD_NOT_SUPPORTED", "load", "m", "--from", self.source, "--manifest", self.manifest)
        self.assertEqual(error["metadata"]["field"], "manifest.conversions[0].operations[1]")
        self.assertIn("TRANSPOSE(1, 2)", error["message"])
        self.assertIn(".experts.down", error["message"])

    def test_a_key_that_is_stored_and_made_is_a_conflict(self):
        self.stored["layers.0.experts.down"] = self.made["layers.0.experts.down"]
        self.write()
        error = self.refused(6, "KEY_CONFLICT", "plan", "m", "--from", self.source, "--manifest", self.manifest)
        self.assertEqual(error["metadata"]["key"], "layers.0.experts.down")

    def test_a_file_that_is_cut_off_in_one_part_is_an_error(self):
        self.load("--device-map", "cuda:0", "--lazy")
        shard = self.source / "model-00003-of-00003.safetensors"
        os.truncate(shard, shard.stat().st_size - 1000)
        out = self.directory / "read.safetensors"
        key = "layers.1.experts.gate_up"  # its first part is in the second shard
        self.assertEqual(self.key(key)["shard"], "model-00002-of-00003.safetensors")
        error = self.refused(6, "CHECKPOINT_CHANGED", "read", "m", key, "--out", out)
        self.assertIn("model-00003", error["message"])
        self.assertEqual(self.key(key)["state"], "LAZY")
        self.assert_reads(["layers.0.experts.gate_up"])

    def test_a_file_that_is_cut_off_before_the_load_is_an_error(self):
        shard = self.source / "model-00003-of-00003.safetensors"
        os.truncate(shard, shard.stat().st_size - 1000)
        error = self.refused(6, "CHECKPOINT_TRUNCATED", "load", "m", "--from", self.source, "--manifest", self.manifest)
        self.assertIn("model-00003", error["message"])

    def test_a_restart_brings_the_conversions_back(self):
        state = ("--state-dir", str(self.directory / "state"))
        self.daemon.stop()
        self.daemon = self.start(*self.flags, *state)
        self.load("--device-map", "cuda:0")
        self.daemon.stop()
        self.daemon = self.start(*self.flags, *state)
        self.assert_reads(list(self.made))


if __name__ == "__main__":
    unittest.main()
