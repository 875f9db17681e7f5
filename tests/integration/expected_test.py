"""Expected keys from config.json: the templates that are built in, and one of a test's own."""

import json
import os
import random
import sys
import unittest

import checkpoints
import daemon

sys.path.insert(0, str(daemon.SOURCE_DIR / "bench" / "peers"))
import deepseek_names  # noqa: E402

SHARDS = 163
FURTHER_LAYER = ".layers.61."  # predicts a further token; models do not have it
FURTHER_KEYS = 1564
DEEPSEEK = {**deepseek_names.config(deepseek_names.REAL), "num_nextn_predict_layers": 1,
            "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                    "weight_block_size": [128, 128]}}


class ExpectedTest(daemon.DaemonTest):
    flags = ("--simulate-gpus", "8x141GiB")

    def write_deepseek(self, without=()):
        """The headers of DeepSeek-V3 with holes for its bytes."""
        tensors = {name: tensor for name, tensor in deepseek_names.deepseek_v3(deepseek_names.REAL).items()
                   if name not in without}
        source = self.models / "deepseek"
        checkpoints.write_sharded(source, tensors, SHARDS, checkpoints.write_sparse_file)
        (source / "config.json").write_text(json.dumps(DEEPSEEK))
        return source

    def test_deepseek_v3_is_whole(self):
        source = self.write_deepseek()
        report = self.succeed("plan", "m", "--from", source, "--device-map", "auto")
        print(f"DeepSeek-V3, phases: {report['phases']}", file=sys.stderr)
        self.assertEqual((report["outcome"], report["expectedFrom"]), ("PLANNED", "CONFIG"))
        counts = report["keys"]
        self.assertEqual(counts["expected"] + FURTHER_KEYS, 91_991)
        self.assertEqual((counts["missing"], counts["unexpected"], counts["mismatched"]), (0, 0, 0))
        self.assertEqual(counts["unexpectedIgnored"], FURTHER_KEYS)
        self.assertEqual(report["warnings"], [])

    def test_scales_that_deepseek_v3_lacks_are_missing(self):
        seed = int.from_bytes(os.urandom(4), "big")
        scales = [name for name in deepseek_names.deepseek_v3(deepseek_names.REAL)
                  if name.endswith(".weight_scale_inv") and FURTHER_LAYER not in name]
        gone = random.Random(seed).sample(scales, 43)
        source = self.write_deepseek(without=gone)
        result = self.keyload("plan", "m", "--from", source, "--strict")
        self.assertEqual(result.code, 1, result)
        self.assertEqual(sorted(result.json["missingKeys"]), sorted(gone), f"seed {seed}")
        self.assertEqual(result.json["keys"]["unexpected"], 0)

    def test_a_template_of_ones_own_goes_before_the_built_in_ones(self):
        templates = self.directory / "templates"
        templates.mkdir()
        source = self.models / "toy"
        checkpoints.write_file(source / "model.safetensors", {"blocks.0.w": ("F32", [4, 2])})
        (source / "config.json").write_text(json.dumps({"model_type": "toy", "blocks": 2, "width": 4}))
        self.daemon.stop()
        self.start("--template-dir", str(templates))
        self.assertEqual(self.succeed("plan", "m", "--from", source)["expectedFrom"], "CHECKPOINT")
        (templates / "toy.toml").write_text(
            "tree = '''\nblocks: List\n  {0..blocks - 1}: Block\n    w [width, 2]\n'''\n"
            "[config]\nblocks = \"required\"\nwidth = 8\n")
        report = self.succeed("plan", "m", "--from", source, "--report-only")
        self.assertEqual((report["expectedFrom"], report["missingKeys"]), ("CONFIG", ["blocks.1.w"]))
        (templates / "toy.toml").write_text("tree = '''\nblocks.{0..blocks} [1]\n'''\n")
        error = self.refused(6, "TEMPLATE_INVALID", "plan", "m", "--from", source)
        self.assertIn("toy.toml:2: ", error["message"])

    def test_from_config_is_refused_where_there_is_none(self):
        source = self.models / "plain"
        checkpoints.write_file(source / "model.safetensors", {"w": ("F32", [4])})
        self.refused(6, "CHECKPOINT_NOT_FOUND", "load", "m", "--from", source, "--expected", "config")
        (source / "config.json").write_text('{"model_type": "unheard_of"}')
        self.refused(6, "CONFIG_NOT_SUPPORTED", "load", "m", "--from", source, "--expected", "config")
        (source / "config.json").write_text('{"model_type": "llama", "hidden_size": 4096}')
        error = self.refused(6, "CONFIG_INVALID", "load", "m", "--from", source)
        self.assertIn("is missing", error["message"])
        self.assertEqual(self.succeed("load", "m", "--from", source, "--expected", "checkpoint")["keys"]["loaded"], 1)


if __name__ == "__main__":
    unittest.main()
