"""Runs the benchmarks and writes their results: see bench/README.md."""

import argparse
import datetime
import json
import pathlib
import subprocess
import sys
import traceback
from typing import Any

import data_sets
import machine
import plot
import report
import targets
from cases import Case, Context, Group, interleaved
from data_set import DataSet
from groups import GROUPS
from keyload_daemon import NotAvailable

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def kind(case: Case) -> str:
    return "peer" if case.peer else "reference" if case.reference else "keyload"


def converted(context: Context, name: str) -> None:
    """Adds the torch.save copy of a set, made once; its seconds are kept beside it."""
    source, target = context.data[name], context.root / f"{name}-pt"
    record = context.root / f"{name}-pt.seconds"
    if not record.exists():
        print(f"converting {name} for torch.load", flush=True)
        command = [str(context.python), "-B", str(pathlib.Path(__file__).with_name("torch_copy.py")),
                   str(source.directory), str(target)]
        record.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    context.data[target.name] = DataSet(target.name, target, source.tensors, source.bytes)


def run_group(group: Group, context: Context, runs: int, results: dict) -> None:
    print(f"{group.title}", flush=True)
    for case in group.cases:
        results[case.id] = {"label": case.label, "group": group.id, "kind": kind(case), "samples": []}
    for case in interleaved(group.cases, runs):
        entry = results[case.id]
        if "skipped" in entry or "failed" in entry:
            continue
        try:
            sample = case.run(context)
        except NotAvailable as reason:
            entry["skipped"] = str(reason)
            print(f"  {case.label}: left out: {reason}", flush=True)
        except Exception as error:  # one broken case must not cost the others' results
            entry["failed"] = str(error)
            print(f"  {case.label}: FAILED: {error}", flush=True)
            traceback.print_exc()
        else:
            entry["samples"].append(sample)
            print(f"  {case.label}: {sample['seconds']:.4f} s", flush=True)


def command_line(arguments: list[str]) -> str:
    """What to type, without where files lie."""
    paths = {"--data", "--page", "--results", "--binaries"}
    kept = [word for before, word in zip([""] + arguments, arguments) if word not in paths and before not in paths]
    return " ".join(["scripts/benchmark.sh", *kept])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, default=REPOSITORY / "build/bench/data", help="the data sets")
    parser.add_argument("--results", type=pathlib.Path, default=REPOSITORY / "build/bench/results.json")
    parser.add_argument("--binaries", type=pathlib.Path, default=REPOSITORY / "build/release/bin")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="3 runs")
    parser.add_argument("--groups", default="", help="comma-separated parts of group ids; results of others are kept")
    parser.add_argument("--huge-pages", action="store_true", help="root: sets nr_hugepages for some rows and back")
    parser.add_argument("--page", type=pathlib.Path, help="write the generated block and the picture beside it")
    parser.add_argument("--report-only", action="store_true", help="judge and write what was measured before")
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    wanted = [part for part in arguments.groups.split(",") if part]
    document: dict[str, Any] = {"cases": {}}
    if arguments.results.exists() and (wanted or arguments.report_only):
        document = json.loads(arguments.results.read_text())
    if not arguments.report_only:
        context = Context(data_sets.make_all(arguments.data), arguments.data.resolve(), arguments.binaries.resolve(),
                          pathlib.Path(sys.executable).absolute(), arguments.huge_pages)
        for name in ("small", "large"):
            converted(context, name)
        runs = 3 if arguments.quick else arguments.runs
        document |= {"machine": machine.describe(arguments.data, arguments.binaries), "runs": runs,
                     "command": command_line(sys.argv[1:]),
                     "date": datetime.date.today().isoformat(),
                     "conversion": {name: float((context.root / f"{name}-pt.seconds").read_text())
                                    for name in ("small", "large")}}
        for group in GROUPS:
            if not wanted or any(part in group.id for part in wanted):
                document["cases"] = {id: entry for id, entry in document["cases"].items()
                                     if entry["group"] != group.id}
                run_group(group, context, runs, document["cases"])
                arguments.results.write_text(json.dumps(document, indent=1))
    verdicts = targets.judge(document["cases"])
    text = report.block(document, GROUPS, verdicts)
    arguments.results.with_suffix(".md").write_text(text)
    plot.draw(document["cases"], arguments.results.with_suffix(".svg"))
    if arguments.page:
        report.insert(arguments.page, text)
        plot.draw(document["cases"], arguments.page.with_suffix(".svg"))
    print(report.verdict_table(verdicts))
    return 1 if any("failed" in entry for entry in document["cases"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
