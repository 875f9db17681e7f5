"""`keyload plan` for people: the map as bars, and the line on what does not fit."""

import re
import unittest

import checkpoints
import daemon

MIB = 1 << 20
LAYERS = {"embed.weight": ("U8", [4 * MIB])} | {f"layers.{i}.weight": ("U8", [MIB]) for i in range(8)}


class PlanTest(daemon.DaemonTest):
    flags = ("--simulate-gpus", "2x6MiB")

    def setUp(self):
        super().setUp()
        self.source = self.models / "m"
        checkpoints.write_sharded(self.source, LAYERS, 1, checkpoints.write_sparse_file)

    def plan(self, *arguments):
        """What is printed for people."""
        result = self.daemon.command("plan", "m", "--from", self.source, *arguments)
        self.assertEqual(result.code, 0, result)
        return result.out

    def test_one_bar_per_device_with_bytes_headroom_and_modules_in_order(self):
        text = self.plan("--device-map", "packed", "--plan-for", "2x8MiB")
        self.assertIn("cuda:0  [##############################..........] 6.0 MiB of 8.0 MiB, 2.0 MiB free, 3 tensors\n"
                      "        embed, layers.0-1\n"
                      "cuda:1  [##############################..........] 6.0 MiB of 8.0 MiB, 2.0 MiB free, 6 tensors\n"
                      "        layers.2-7\n", text)
        self.assertNotIn("does not fit", text)

    def test_missing_keys_are_placed_and_said_to_be_missing(self):
        manifest = self.directory / "manifest.json"
        manifest.write_text(checkpoints.manifest(LAYERS | {"head.weight": ("U8", [MIB])}))
        text = self.plan("--manifest", manifest, "--device-map", "packed", "--plan-for", "1x16MiB", "--report-only")
        self.assertIn("13.0 MiB of 16.0 MiB, 3.0 MiB free, 9 tensors, 1.0 MiB of it missing\n        everything\n", text)

    def test_what_does_not_fit_is_one_line_with_the_limit_that_would_do(self):
        for policy, limits in (("packed", "0=5MiB,1=5MiB"), ("sequential", "0=5MiB,1=5MiB"),
                               ("auto", "0=5MiB,1=5MiB,cpu=1GiB")):
            with self.subTest(policy):
                text = self.plan("--device-map", policy, "--max-memory", limits)
                line = next(line for line in text.splitlines() if line.startswith("does not fit"))
                enough = re.search(r"--max-memory (\S+) would do$", line)[1]
                self.assertNotIn("does not fit", self.plan("--device-map", policy, "--max-memory", enough))
        self.assertIn("does not fit on the GPUs: layers.6-7 on disk; --max-memory cuda:0=",
                      self.plan("--device-map", "packed", "--max-memory", "0=5MiB,1=5MiB"))

    def test_a_device_that_is_too_small(self):
        self.assertIn("does not fit: cuda:1 needs 12.0 MiB and has 6.0 MiB\n", self.plan("--device-map", "cuda:1"))
        self.assertNotIn("cuda:0", self.plan("--device-map", "cuda:1"))

    def test_a_kept_map_brings_its_limits(self):
        self.succeed("map", "set", "gpus", "--device-map", "packed", "--max-memory", "0=7MiB,1=7MiB")
        self.assertIn("6.0 MiB of 7.0 MiB, 1.0 MiB free", self.plan("--device-map", "@gpus"))

    def test_json_is_the_report_alone(self):
        report = self.succeed("plan", "m", "--from", self.source, "--device-map", "packed", "--max-memory", "0=5MiB")
        self.assertEqual(report["outcome"], "PLANNED")
        self.assertEqual(report["warnings"], [])

    def test_a_tied_group_without_data_is_missing_once(self):
        shape = ("U8", [MIB])
        manifest = self.directory / "manifest.json"
        manifest.write_text(checkpoints.manifest({"a.weight": shape, "b.weight": shape},
                                                 tiedGroups=[{"source": "a.weight", "targets": ["b.weight"]}]))
        empty = self.models / "empty"
        empty.mkdir()
        report = self.succeed("plan", "m", "--from", empty, "--allow-no-weights", "--manifest", manifest,
                              "--device-map", "packed")
        self.assertEqual([(use["device"], use["missingBytes"]) for use in report["devices"]], [("cuda:0", MIB)])


if __name__ == "__main__":
    unittest.main()
