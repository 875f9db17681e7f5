"""Counts the tests of a ctest run by kind and says what did not run and why: the last lines of scripts/test.sh.

    python3 summarize_tests.py BUILD_FOLDER

Reads tests.json (`ctest --show-only=json-v1`), tests.xml (`ctest --output-junit`) and, where they are there,
left_out.txt (what CMake was told to leave out) and differential.txt (what the differential tests compared). A test program
of Python counts with each of its test methods. Ends with 1 if a kind lost tests that should be there.
"""

import json
import pathlib
import re
import sys
import xml.etree.ElementTree as xml

KINDS = ("unit", "contract", "integration", "differential", "container")
_METHODS = re.compile(r"^Ran (\d+) tests? in ", re.MULTILINE)
_SKIPPED_METHOD = re.compile(r"^(\w+) \(.*skipped ['\"](.*)['\"]$", re.MULTILINE)
_SKIPPED_GTEST = re.compile(r": Skipped\n(.+)")
_SKIPPED_SCRIPT = re.compile(r"skipped: (.+)")


def kinds_of_tests(listing):
    """Test name -> kind, from ctest's own listing. Tests without a known label are `other`."""
    kinds = {}
    for test in listing["tests"]:
        labels = next((entry["value"] for entry in test.get("properties", []) if entry["name"] == "LABELS"), [])
        kinds[test["name"]] = next((kind for kind in KINDS if kind in labels), "other")
    return kinds


class Result:
    """What one kind of tests did."""

    def __init__(self):
        self.passed = self.failed = 0
        self.not_run = []  # (test, why)

    def add(self, name, status, output):
        if status == "run":
            methods = sum(int(count) for count in _METHODS.findall(output)) or 1
            skipped = _SKIPPED_METHOD.findall(output)
            self.passed += methods - len(skipped)
            self.not_run += [(f"{name} {method}", why) for method, why in skipped]
        elif status == "fail":
            self.failed += 1
        else:
            why = next((match.group(1) for pattern in (_SKIPPED_GTEST, _SKIPPED_SCRIPT) if (match := pattern.search(output))),
                       "no reason given")
            self.not_run.append((name, why.strip()))


def summarize(kinds, cases, left_out=(), differential=""):
    """The lines of the summary, and whether all is well. `cases`: (name, status, output)."""
    results = {}
    for name, status, output in cases:
        results.setdefault(kinds.get(name, "other"), Result()).add(name, status, output)
    lines, well, details = [], True, []
    for kind in (*KINDS, *(["other"] if "other" in results else [])):
        result = results.get(kind)
        if result is None:
            asked = sum(1 for of_test in kinds.values() if of_test == kind)
            why = f"not asked for ({asked} in this build)" if asked else "not in this build"
            well = well and (asked > 0 or any(of_kind == kind for of_kind, _ in left_out))
            lines.append(f"tests: {kind:<13} {'none':>6}  {why}")
            continue
        counts = f"tests: {kind:<13} {result.passed:>6} passed"
        if result.failed:
            counts += f", {result.failed} failed"
        if result.not_run:
            counts += f", {len(result.not_run)} did not run"
        if kind == "differential" and differential:
            counts += f"  ({differential.strip().removeprefix('differential: ')})"
        lines.append(counts)
        details += [f"tests: did not run: {name}: {why}" for name, why in result.not_run]
    details += [f"tests: left out of this build: {kind}: {what}" for kind, what in left_out]
    return details + lines, well


def main(folder):
    cases = []
    for case in xml.parse(folder / "tests.xml").getroot().iter("testcase"):
        cases.append((case.get("name"), case.get("status"), case.findtext("system-out") or ""))
    listing = json.loads((folder / "tests.json").read_text(encoding="utf-8"))
    left_out_file, differential_file = folder / "left_out.txt", folder / "differential.txt"
    left_out = [tuple(line.split(": ", 1)) for line in left_out_file.read_text(encoding="utf-8").splitlines()] \
        if left_out_file.exists() else []
    differential = differential_file.read_text(encoding="utf-8") if differential_file.exists() else ""
    lines, well = summarize(kinds_of_tests(listing), cases, left_out, differential)
    print("\n".join(lines))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
