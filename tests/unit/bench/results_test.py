"""The parts of the benchmarks that compute: medians, ratios, verdicts, tables, the order of runs."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "bench/peers"))

import cases  # noqa: E402
import report  # noqa: E402
import summaries  # noqa: E402
import targets  # noqa: E402


def entry(group, kind, *seconds, **fields):
    samples = [{"seconds": value, "report": value, "command": value + 0.01, **fields} for value in seconds]
    return {"label": group + kind, "group": group, "kind": kind, "samples": samples}


class SummariesTest(unittest.TestCase):
    def test_the_median_is_not_the_mean(self):
        results = {"a": entry("g", "keyload", 1.0, 9.0, 2.0)}
        self.assertEqual(summaries.summary(results, "a"), summaries.Summary(1.0, 2.0, 9.0))
        self.assertIsNone(summaries.summary(results, "unknown"))

    def test_the_best_peer_is_the_fastest_of_its_group_and_never_keyload(self):
        results = {"fast": entry("g", "peer", 2.0), "slow": entry("g", "peer", 3.0), "ours": entry("g", "keyload", 1.0),
                   "disk": entry("g", "reference", 0.5), "other": entry("h", "peer", 0.1)}
        self.assertEqual(summaries.best_peer(results, "g"), ("fast", 2.0))
        self.assertIsNone(summaries.best_peer(results, "unknown"))

    def test_text(self):
        self.assertEqual([summaries.seconds_text(value) for value in (0.00123, 0.1234, 1.234, 123.4, None)],
                         ["1.23 ms", "123 ms", "1.23 s", "123 s", ""])
        self.assertEqual([summaries.bytes_text(value) for value in (5, 1500, 4.28e9)], ["5 B", "1.5 kB", "4.28 GB"])
        self.assertEqual([summaries.ratio_text(value) for value in (1.26, 1234.5)], ["1.3x", "1,234x"])

    def test_a_table_aligns_its_last_columns(self):
        self.assertEqual(summaries.table(["a", "b"], [["x", "1"]], 1), "| a | b |\n| --- | ---: |\n| x | 1 |")


class TargetsTest(unittest.TestCase):
    def verdicts(self, results):
        return {verdict.claim: verdict for verdict in targets.judge(results)}

    def test_nothing_measured_is_not_a_failure(self):
        self.assertEqual({verdict.met for verdict in targets.judge({})}, {None})

    def test_a_limit_on_time_holds_for_report_and_command_apart(self):
        claim = "The same again: under 40 ms"
        verdict = self.verdicts({"plan-again": entry("plan", "keyload", 0.035)})[claim]
        self.assertEqual((verdict.met, verdict.command_met), (True, False))

    def test_a_ratio_is_taken_to_the_best_peer(self):
        results = {"a": entry("large-owned", "peer", 3.0), "b": entry("large-owned", "peer", 1.4),
                   "large-warm-copied-first": entry("large-owned", "keyload", 1.0)}
        claim = "4.3 GB in large tensors, copied, first load: 1.5 times faster than any peer's owned load"
        self.assertIs(self.verdicts(results)[claim].met, False)
        results["b"] = entry("large-owned", "peer", 1.6)
        self.assertIs(self.verdicts(results)[claim].met, True)

    def test_reading_a_key_twice_is_seen(self):
        claim = "32 clients that materialise the same keys read them once"
        once = {"clients-32": entry("clients", "keyload", 1.0, rchar=104, bytes_selected=100)}
        twice = {"clients-32": entry("clients", "keyload", 1.0, rchar=200, bytes_selected=100)}
        self.assertEqual([self.verdicts(results)[claim].met for results in (once, twice)], [True, False])


class ReportTest(unittest.TestCase):
    def test_the_block_replaces_what_is_between_the_markers(self):
        with tempfile.TemporaryDirectory() as directory:
            page = pathlib.Path(directory) / "page.md"
            page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
            report.insert(page, "new")
            self.assertEqual(page.read_text(), f"before\n{report.BEGIN}\n\nnew\n{report.END}\nafter\n")

    def test_rows_are_measured_forth_and_back(self):
        rows = [cases.Case(id, "", lambda _: {}, most_runs=2 if id == "b" else 9) for id in "abc"]
        self.assertEqual("".join(row.id for row in cases.interleaved(rows, 3)), "abccbaac")


if __name__ == "__main__":
    unittest.main()
