"""Loading a part of a checkpoint, and limits that reject before a byte is read."""

import unittest

import checkpoints
import daemon

SLACK_BYTES = 64 * 1024


class SelectionTest(daemon.DaemonTest):
    def setUp(self):
        super().setUp()
        self.tensors = {f"model.layers.{layer}.{part}.weight": ("F32", [512, 512])
                        for layer in range(35) for part in ("attn", "mlp")}
        self.source = self.models / "layers"
        checkpoints.write_sharded(self.source, self.tensors, 3)

    def test_an_include_reads_only_its_bytes(self):
        before = self.daemon.read_characters()
        report = self.succeed("load", "part", "--from", self.source, "--include", "model.layers.3.*",
                              "--device-map", "cuda:0")
        moved = self.daemon.read_characters() - before
        self.assertEqual(report["outcome"], "COMPLETE")
        self.assertEqual((report["keys"]["loaded"], report["keys"]["notSelected"]), (2, 68))
        self.assertEqual(report["bytes"]["selected"], 2 * 512 * 512 * 4)
        self.assertLessEqual(report["bytes"]["read"], 1.05 * report["bytes"]["selected"])
        self.assertLessEqual(moved, 1.05 * report["bytes"]["selected"] + 2 * checkpoints.header_bytes(self.source)
                             + SLACK_BYTES)

    def test_an_exclude_wins_over_an_include(self):
        report = self.succeed("load", "part", "--from", self.source, "--include", "model.layers.{3,4}.*",
                              "--exclude", "*.mlp.*")
        self.assertEqual(report["keys"]["loaded"], 2)

    def test_a_key_file_selects_exactly_its_keys(self):
        names = self.directory / "names.txt"
        names.write_text("model.layers.30.attn.weight\nmodel.layers.31.mlp.weight\n")
        report = self.succeed("load", "part", "--from", self.source, "--keys", names)
        self.assertEqual(report["keys"]["loaded"], 2)

    def test_an_included_expected_key_that_is_absent_is_missing(self):
        manifest = self.directory / "manifest.json"
        manifest.write_text(checkpoints.manifest(self.tensors | {"model.layers.3.norm.weight": ("F32", [512])}))
        report = self.succeed("load", "part", "--from", self.source, "--manifest", manifest,
                              "--include", "model.layers.3.*", "--report-only")
        self.assertEqual((report["outcome"], report["missingKeys"]), ("INCOMPLETE", ["model.layers.3.norm.weight"]))


class StrictTest(daemon.DaemonTest):
    """An incomplete pair: one key missing, one unexpected, one of another shape."""

    def setUp(self):
        super().setUp()
        tensors = {f"layers.{i}.weight": ("F32", [512, 512]) for i in range(8)}
        self.source = self.models / "incomplete"
        checkpoints.write_sharded(self.source, tensors, 2)
        expected = dict(tensors)
        del expected["layers.7.weight"]
        expected |= {"layers.0.weight": ("F32", [512, 256]), "head.weight": ("F32", [4])}
        self.manifest = self.directory / "manifest.json"
        self.manifest.write_text(checkpoints.manifest(expected))

    def pair(self, *more):
        return ("--manifest", self.manifest, "--device-map", "cuda:0", *more)

    def assert_rejected(self, result):
        self.assertEqual(result.code, 1, result)
        report = result.json
        self.assertEqual(report["outcome"], "REJECTED")
        counts = report["keys"]
        self.assertEqual((counts["missing"], counts["unexpected"], counts["mismatched"]), (1, 1, 1))
        self.assertEqual(report["missingKeys"], ["head.weight"])
        self.assertEqual(report["unexpectedKeys"], ["layers.7.weight"])
        self.assertEqual(report["mismatchedKeys"][0]["key"], "layers.0.weight")
        self.assertEqual((report["bytes"]["read"], report["bytes"]["mapped"]), (0, 0))

    def test_a_load_is_rejected_before_a_tensor_byte(self):
        memory, before = self.daemon.device_memory(), self.daemon.read_characters()
        self.assert_rejected(self.keyload("load", "m", "--from", self.source, *self.pair("--strict")))
        moved = self.daemon.read_characters() - before
        self.assertLessEqual(moved, 2 * checkpoints.header_bytes(self.source) + SLACK_BYTES)
        self.assertEqual(self.succeed("list")["models"], [])
        self.assert_memory(memory)

    def test_a_materialize_is_rejected(self):
        self.succeed("load", "m", "--from", self.source, *self.pair("--lazy", "--report-only"))
        self.assert_rejected(self.keyload("materialize", "m", "--strict"))
        self.assertEqual(self.succeed("materialize", "m", "--include", "layers.[1-6].*", "--strict")["keys"]["loaded"], 6)
        self.assertEqual(self.keyload("materialize", "m", "--include", "layers.7.*", "--max-unexpected", 0).code, 1)

    def test_a_plan_is_rejected(self):
        self.assert_rejected(self.keyload("plan", "m", "--from", self.source, *self.pair("--strict")))

    def test_a_check_is_rejected_without_a_daemon(self):
        self.assert_rejected(self.keyload("check", self.source, "--manifest", self.manifest, "--strict"))

    def test_a_limit_that_holds_lets_the_load_pass(self):
        report = self.succeed("load", "m", "--from", self.source,
                              *self.pair("--max-missing", 1, "--max-unexpected", 1, "--max-mismatched", 1))
        self.assertEqual((report["outcome"], report["keys"]["loaded"]), ("INCOMPLETE", 6))

    def test_keys_are_listed_by_state(self):
        self.succeed("load", "m", "--from", self.source, *self.pair("--exclude", "layers.1.*", "--report-only"))
        states = {"missing": {"head.weight"}, "unexpected": {"layers.7.weight"}, "mismatched": {"layers.0.weight"},
                  "not-selected": {"layers.1.weight"}, "resident": {f"layers.{i}.weight" for i in range(2, 7)},
                  "lazy": set(), "ignored": set(), "initialized": set()}
        for state, keys in states.items():
            listed = self.succeed("keys", "m", "--state", state)["keys"]
            self.assertEqual({key["key"] for key in listed}, keys, state)
            self.assertEqual({key["state"] for key in listed} - {state.upper().replace("-", "_")}, set())
        both = self.succeed("keys", "m", "--state", "missing", "--state", "mismatched")["keys"]
        self.assertEqual([key["key"] for key in both], ["head.weight", "layers.0.weight"])
        self.assertEqual(self.keyload("keys", "m", "--state", "elsewhere").code, 2)

    def test_a_single_limit_rejects(self):
        result = self.keyload("load", "m", "--from", self.source, *self.pair("--max-mismatched", 0))
        self.assert_rejected(result)

    def test_without_limits_the_model_is_loaded_and_the_exit_code_tells(self):
        result = self.keyload("load", "m", "--from", self.source, *self.pair())
        self.assertEqual((result.code, result.json["outcome"]), (1, "INCOMPLETE"))
        self.assertEqual(self.keyload("show", "m").code, 0)
        self.assertEqual(self.keyload("plan", "p", "--from", self.source, *self.pair()).code, 1)
        self.assertEqual(self.succeed("load", "m", "--from", self.source, *self.pair("--report-only"))["outcome"],
                         "INCOMPLETE")

    def test_waiting_for_an_incomplete_load_tells_too(self):
        load = self.succeed("load", "m", "--from", self.source, *self.pair("--detach"))["load"]
        self.assertEqual(self.keyload("wait", load).code, 1)
        self.assertEqual(self.succeed("wait", load, "--report-only")["outcome"], "INCOMPLETE")

    def test_a_rejected_load_is_none_though_only_a_report_is_wanted(self):
        self.assert_rejected(self.keyload("load", "m", "--from", self.source, *self.pair("--strict", "--report-only")))


if __name__ == "__main__":
    unittest.main()
