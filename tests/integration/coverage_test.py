"""The listing of what the mock client's scenarios cover; fails when a call or an error is covered by none."""

import sys
import unittest

import daemon
import scenario_coverage
import scenario_runs


class CoverageTest(unittest.TestCase):
    def setUp(self):
        self.by_method, self.by_reason = scenario_coverage.covered(scenario_runs.SCENARIOS.rglob("*.json"))

    def check(self, title, names, found, exceptions=()):
        lines, missing = scenario_coverage.listing(title, names, found, exceptions)
        print("\n".join(lines), file=sys.stderr)
        self.assertGreater(len(names), 20)
        self.assertEqual(missing, [], f"{title}: no scenario covers these")
        for name in exceptions:
            self.assertIn(name, names)
            self.assertFalse(found[name], f"{name} is covered and no exception any more")

    def test_every_call_has_a_scenario(self):
        self.check("calls", scenario_coverage.methods(daemon.SOURCE_DIR), self.by_method)

    def test_every_error_has_a_scenario(self):
        self.check("errors", scenario_coverage.reasons(daemon.SOURCE_DIR), self.by_reason, scenario_coverage.NOT_FROM_OUTSIDE)

    def test_no_scenario_expects_an_error_that_is_not_documented(self):
        self.assertLessEqual({reason for reason, names in self.by_reason.items() if names},
                             set(scenario_coverage.reasons(daemon.SOURCE_DIR)) | {""})

    def test_every_folder_of_scenarios_is_played(self):
        folders = {path.parent.name for path in scenario_runs.SCENARIOS.rglob("*.json")}
        self.assertEqual(folders, {"scenarios", "limits", "drain"}, "scenarios_test and drain_test play these")


if __name__ == "__main__":
    unittest.main()
