"""`keyload check` as a gate: the right verdict on good and on spoiled checkpoints, and on what else is in a directory."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import checkpoints
import daemon

KEYLOAD = daemon.BIN_DIR / "keyload"
LAYERS = 12
MODEL = {"model.embed.weight": ("BF16", [32, 16])}
for layer in range(LAYERS):
    MODEL[f"model.layers.{layer}.proj.weight"] = ("F8_E4M3", [16, 16])
    MODEL[f"model.layers.{layer}.proj.weight_scale_inv"] = ("F32", [1, 1])
MODEL["lm_head.weight"] = ("BF16", [32, 16])


def without(*names):
    return {name: tensor for name, tensor in MODEL.items() if name not in names}


def write_stale_index(directory):
    """The index names a key that a shard no longer has."""
    checkpoints.write_sharded(directory, MODEL, 2)
    first = next(checkpoints.split(MODEL, 2))
    part = {name: tensor for name, tensor in first[1].items() if name != "model.layers.3.proj.weight"}
    checkpoints.write_file(directory / first[0], part)


def write_swapped_index(directory):
    """The index says of a key that it is in the other shard."""
    checkpoints.write_sharded(directory, MODEL, 2)
    files = [file for file, _ in checkpoints.split(MODEL, 2)]
    weight_map = {name: file for file, part in checkpoints.split(MODEL, 2) for name in part}
    weight_map["lm_head.weight"] = files[0]
    checkpoints.write_index(directory, weight_map)


def write_truncated(directory):
    checkpoints.write_sharded(directory, MODEL, 2)
    shard = max(directory.glob("*.safetensors"))
    os.truncate(shard, shard.stat().st_size - 1)


def write_without_a_shard(directory):
    checkpoints.write_sharded(directory, MODEL, 2)
    max(directory.glob("*.safetensors")).unlink()


def write_cache(directory, tensors=None):
    """As the Hugging Face cache has it: blobs, and links to them in a snapshot that refs/main names."""
    for name in ("blobs", "refs", "snapshots/5f1d"):
        (directory / name).mkdir(parents=True)
    (directory / "refs/main").write_text("5f1d")
    checkpoints.write_sharded(directory / "blobs", tensors or MODEL, 2)
    for blob in (directory / "blobs").iterdir():
        (directory / "snapshots/5f1d" / blob.name).symlink_to(f"../../blobs/{blob.name}")


def single(tensors):
    return lambda directory: checkpoints.write_file(directory / "model.safetensors", tensors)


def sharded(tensors):
    return lambda directory: checkpoints.write_sharded(directory, tensors, 3)


DROPPED_LAYER = [name for name in MODEL if name.startswith("model.layers.7.")]
WRONG_SHAPE = MODEL | {"model.layers.2.proj.weight": ("F8_E4M3", [16, 8])}
RENAMED = {name.replace("model.", "transformer.", 1): tensor for name, tensor in MODEL.items()}
# What is written, the exit code, and (missing, unexpected, mismatched) or the reason of the error.
MATRIX = {
    "good, one file": (single(MODEL), 0, (0, 0, 0)),
    "good, three shards": (sharded(MODEL), 0, (0, 0, 0)),
    "good, cache layout": (write_cache, 0, (0, 0, 0)),
    "dropped scale": (sharded(without("model.layers.10.proj.weight_scale_inv")), 1, (1, 0, 0)),
    "dropped scale, cache layout": (
        lambda directory: write_cache(directory, without("model.layers.10.proj.weight_scale_inv")), 1, (1, 0, 0)),
    "dropped layer": (sharded(without(*DROPPED_LAYER)), 1, (2, 0, 0)),
    "wrong shape": (single(WRONG_SHAPE), 1, (0, 0, 1)),
    "an extra key": (single(MODEL | {"model.extra": ("F32", [1])}), 1, (0, 1, 0)),
    "renamed prefix": (sharded(RENAMED), 1, (1 + 2 * LAYERS, 1 + 2 * LAYERS, 0)),
    "stale index": (write_stale_index, 1, (1, 0, 0)),
    "index and shard disagree": (write_swapped_index, 6, "CHECKPOINT_CORRUPT"),
    "one of two shards, no index": (
        lambda directory: checkpoints.write_file(directory / "model-00001-of-00002.safetensors", MODEL), 6,
        "CHECKPOINT_NOT_FOUND"),
    "truncated shard": (write_truncated, 6, "CHECKPOINT_TRUNCATED"),
    "a shard is not there": (write_without_a_shard, 6, "CHECKPOINT_NOT_FOUND"),
}


class GateTest(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="keyload-gate-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.model = self.directory / "model"
        self.manifest = self.directory / "manifest.json"
        self.manifest.write_text(checkpoints.manifest(MODEL))

    def check(self, *arguments):
        return subprocess.run([KEYLOAD, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=120, check=False)

    def gate(self, directory, *arguments):
        """Exit code, and the counts or the reason."""
        result = self.check("--json", "check", directory, "--manifest", self.manifest, "--strict", *arguments)
        document = json.loads(result.stdout)
        if document.get("error"):
            return result.returncode, document["error"]["reason"]
        keys = document["keys"]
        return result.returncode, (keys["missing"], keys["unexpected"], keys["mismatched"])

    def text(self, directory, *arguments):
        """What is printed for people."""
        result = self.check("check", directory, "--report-only", *arguments)
        self.assertEqual(result.returncode, 0, result)
        return result.stdout

    def test_verdicts(self):
        wrong = []
        print(f"\n{'checkpoint':30} {'exit':>4}  missing, unexpected, mismatched; or the error")
        for name, (write, code, found) in MATRIX.items():
            directory = self.directory / name.replace(" ", "-")
            directory.mkdir()
            write(directory)
            verdict = self.gate(directory)
            print(f"{name:30} {verdict[0]:>4}  {verdict[1]}")
            if verdict != (code, found):
                wrong.append((name, verdict, (code, found)))
        print(f"{len(MATRIX)} checkpoints, {len(wrong)} wrong verdicts")
        self.assertEqual(wrong, [])

    def test_names_what_is_missing(self):
        checkpoints.write_sharded(self.model, without("model.layers.10.proj.weight_scale_inv"), 2)
        result = self.check("check", self.model, "--manifest", self.manifest, "--strict")
        self.assertEqual(result.returncode, 1)
        self.assertIn("check: REJECTED", result.stdout)
        self.assertIn("missing keys (1)\n  model.layers.10.proj.weight_scale_inv\n", result.stdout)

    def test_says_which_set_it_takes_and_why(self):
        checkpoints.write_sharded(self.model, MODEL, 2)
        for other in ("consolidated.safetensors", "adapter_model.safetensors", "model.fp16.safetensors"):
            checkpoints.write_file(self.model / other, {"other": ("F32", [1])})
        text = self.text(self.model, "--manifest", self.manifest, "--strict")
        self.assertIn("weights model.safetensors.index.json (the standard index)\n"
                      "        not taken: adapter_model.safetensors, consolidated.safetensors, model.fp16.safetensors; "
                      "--weights NAME takes another\n", text)
        self.assertIn("weights consolidated.safetensors (as --weights says)",
                      self.text(self.model, "--weights", "consolidated.safetensors"))

    def test_a_variant_is_not_another_set(self):
        for name in ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16"):
            checkpoints.write_file(self.model / f"{name}.safetensors", {name: ("F32", [1])})
        for arguments, key in (([], "diffusion_pytorch_model"), (["--weights", "fp16"], "diffusion_pytorch_model.fp16")):
            result = self.check("--json", "check", self.model, *arguments)
            self.assertEqual([shard["file"] for shard in json.loads(result.stdout)["shards"]], [f"{key}.safetensors"])

    def test_says_which_of_several_it_takes(self):
        for name in ("unet", "unet.fp16"):
            checkpoints.write_file(self.model / f"{name}.safetensors", {name: ("F32", [1])})
        self.assertIn("weights unet.safetensors (the only one that is no variant of another)\n"
                      "        not taken: unet.fp16.safetensors;", self.text(self.model))
        checkpoints.write_file(self.model / "part-00001-of-00001.safetensors", {"w": ("F32", [1])})
        index = self.model / "consolidated.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"w": "part-00001-of-00001.safetensors"}}))
        self.assertIn("weights consolidated.safetensors.index.json (the only index)\n"
                      "        not taken: unet.fp16.safetensors, unet.safetensors;", self.text(self.model))

    def test_a_link_to_nowhere_is_not_what_it_says_it_takes(self):
        checkpoints.write_sharded(self.model, MODEL, 2)
        (self.model / "model.safetensors").symlink_to("../../blobs/absent")
        self.assertIn("weights model.safetensors.index.json (the standard index)\ncheck:", self.text(self.model))

    def test_asks_where_several_sets_are_alike(self):
        for name in ("consolidated.safetensors", "adapter_model.safetensors"):
            checkpoints.write_file(self.model / name, {name: ("F32", [1])})
        result = self.check("check", self.model)
        self.assertEqual(result.returncode, 6)
        for words in ("CHECKPOINT_AMBIGUOUS", "adapter_model.safetensors, consolidated.safetensors", "--weights"):
            self.assertIn(words, result.stderr)

    def test_asks_for_the_component_of_a_pipeline(self):
        for name in ("unet", "vae"):
            checkpoints.write_file(self.model / name / "diffusion_pytorch_model.safetensors", {name: ("F32", [1])})
        result = self.check("check", self.model)
        self.assertEqual(result.returncode, 6)
        self.assertIn("CHECKPOINT_AMBIGUOUS", result.stderr)
        self.assertIn("in its directories (unet, vae)", result.stderr)
        self.assertIn("weights diffusion_pytorch_model.safetensors (the only one)", self.text(self.model / "vae"))

    def test_says_which_snapshot_of_the_cache_it_takes(self):
        write_cache(self.model)
        self.assertIn("snapshots/5f1d (named by refs/main)\n", self.text(self.model))
        (self.model / "refs/main").unlink()
        self.assertIn("snapshots/5f1d (the only snapshot)\n", self.text(self.model))
        (self.model / "snapshots/.DS_Store").touch()
        self.assertIn("snapshots/5f1d (the only snapshot)\n", self.text(self.model))
        (self.model / "refs/main").write_text("700")
        result = self.check("check", self.model)
        self.assertEqual(result.returncode, 2)
        self.assertIn("names 700, which is not among its snapshots (5f1d)", result.stderr)
        (self.model / "refs/main").unlink()
        (self.model / "snapshots/6000").mkdir()
        result = self.check("check", self.model)
        self.assertEqual(result.returncode, 2)
        self.assertIn("2 snapshots (5f1d, 6000)", result.stderr)


if __name__ == "__main__":
    unittest.main()
