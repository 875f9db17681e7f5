"""A checkpoint of 673 GB and a manifest of 91,991 keys: what is decided without reading a tensor."""

import sys
import time
import unittest

import checkpoints
import daemon

SLACK_BYTES = 1024 * 1024


class LargeCheckpointTest(daemon.DaemonTest):
    flags = ("--simulate-gpus", "8x141GiB")

    def timed(self, *arguments):
        start = time.monotonic()
        report = self.succeed(*arguments)
        print(f"{self._testMethodName}: {time.monotonic() - start:.2f} s, of which the daemon "
              f"{report['totalSeconds']:.2f} s", file=sys.stderr)
        return report

    def test_a_plan_over_sparse_shards_reads_headers_only(self):
        source = self.models / "large"
        checkpoints.write_sharded(source, checkpoints.large_model(), checkpoints.LARGE_SHARDS,
                                  checkpoints.write_sparse_file)
        before = self.daemon.read_characters()
        report = self.timed("plan", "big", "--from", source)
        moved = self.daemon.read_characters() - before
        self.assertEqual(report["outcome"], "PLANNED")
        self.assertEqual(report["keys"]["expected"], checkpoints.LARGE_COUNT)
        self.assertEqual(len(report["shards"]), checkpoints.LARGE_SHARDS)
        self.assertGreater(report["bytes"]["selected"], 670e9)
        self.assertEqual((report["bytes"]["read"], report["bytes"]["mapped"]), (0, 0))
        self.assertLessEqual(moved, 1.05 * checkpoints.header_bytes(source) + SLACK_BYTES)

    def test_an_empty_checkpoint_misses_every_key_and_gets_a_full_device_map(self):
        source = self.models / "empty"
        source.mkdir()
        manifest = self.directory / "large.manifest.json"
        manifest.write_text(checkpoints.manifest(checkpoints.large_model()))
        report = self.timed("load", "seed", "--from", source, "--manifest", manifest, "--allow-no-weights",
                            "--device-map", "auto")
        self.assertEqual(report["outcome"], "INCOMPLETE")
        self.assertEqual(report["keys"]["missing"], checkpoints.LARGE_COUNT)
        self.assertEqual(report["keys"]["loaded"], 0)
        self.assertEqual(len(report["missingKeys"]), 100)
        self.assertGreaterEqual(len(set(report["deviceMap"].values())), 4)
        prefixes = set(report["deviceMap"])
        for key in checkpoints.large_model():
            parts = key.split(".")
            self.assertTrue(any(".".join(parts[:n]) in prefixes for n in range(len(parts) + 1)), key)


if __name__ == "__main__":
    unittest.main()
