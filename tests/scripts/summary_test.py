"""scripts/summarize_tests.py: counts by kind, and nothing that did not run stays unsaid."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))

import summarize_tests  # noqa: E402

KINDS = {"Unit.A": "unit", "Unit.B": "unit", "Device.C": "contract", "integration.plan": "integration",
         "differential.peers": "differential", "container": "container"}
PYTHON_OUTPUT = """test_a (plan_test.PlanTest.test_a) ... ok
test_b (plan_test.PlanTest.test_b) ... skipped 'takes root'

Ran 12 tests in 1.234s

OK (skipped=1)
"""
ALL = [("Unit.A", "run", ""), ("Unit.B", "run", ""), ("Device.C", "run", ""), ("integration.plan", "run", PYTHON_OUTPUT),
       ("differential.peers", "run", "Ran 78 tests in 9.9s\n"), ("container", "run", "container test: passed\n")]


class SummarizeTest(unittest.TestCase):
    def test_counts_each_kind_and_the_methods_of_python_programs(self):
        lines, well = summarize_tests.summarize(KINDS, ALL, differential="differential: 14 architectures agreed\n")
        self.assertTrue(well)
        self.assertEqual(lines, [
            "tests: did not run: integration.plan test_b: takes root",
            "tests: unit               2 passed",
            "tests: contract           1 passed",
            "tests: integration       11 passed, 1 did not run",
            "tests: differential      78 passed  (14 architectures agreed)",
            "tests: container          1 passed",
        ])

    def test_says_why_a_test_did_not_run(self):
        cases = [*ALL[1:-1], ("Unit.A", "notrun", "/src/a.cc:7: Skipped\nno huge pages\n\n[  SKIPPED ] Unit.A"),
                 ("container", "notrun", "container test skipped: no Docker\n")]
        lines, well = summarize_tests.summarize(KINDS, cases)
        self.assertTrue(well)
        self.assertIn("tests: did not run: Unit.A: no huge pages", lines)
        self.assertIn("tests: did not run: container: no Docker", lines)
        self.assertIn("tests: unit               1 passed, 1 did not run", lines)

    def test_counts_failures(self):
        lines, _ = summarize_tests.summarize(KINDS, [("Unit.A", "fail", "")])
        self.assertIn("tests: unit               0 passed, 1 failed", lines)

    def test_a_kind_that_was_not_asked_for_is_said(self):
        lines, well = summarize_tests.summarize(KINDS, ALL[:2])
        self.assertTrue(well)
        self.assertIn("tests: differential    none  not asked for (1 in this build)", lines)

    def test_a_kind_that_the_build_lost_is_an_error(self):
        kinds = {name: kind for name, kind in KINDS.items() if kind != "differential"}
        cases = [case for case in ALL if case[0] != "differential.peers"]
        lines, well = summarize_tests.summarize(kinds, cases)
        self.assertFalse(well)
        self.assertIn("tests: differential    none  not in this build", lines)

    def test_a_kind_that_was_left_out_on_purpose_is_said(self):
        kinds = {name: kind for name, kind in KINDS.items() if kind != "differential"}
        cases = [case for case in ALL if case[0] != "differential.peers"]
        lines, well = summarize_tests.summarize(kinds, cases, [("differential", "all differential tests")])
        self.assertTrue(well)
        self.assertIn("tests: left out of this build: differential: all differential tests", lines)

    def test_kinds_come_from_the_labels(self):
        listing = {"tests": [{"name": "a", "properties": [{"name": "LABELS", "value": ["hostile", "integration"]}]},
                             {"name": "b", "properties": []}]}
        self.assertEqual(summarize_tests.kinds_of_tests(listing), {"a": "integration", "b": "other"})


if __name__ == "__main__":
    unittest.main()
