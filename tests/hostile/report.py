"""Runs the corpus against any build of keyload, each attack against a fresh daemon, and writes a table.

  report.py --bin DIR --report FILE [--limit cgroup|address_space|none] [--only NAME ...] [--no-assert]

Without --no-assert the exit code is 1 if an attack had a problem.
"""

import argparse
import os
import pathlib
import shutil
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PROBES = ("show", "health", "load")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="directory of keyloadd and keyload")
    parser.add_argument("--report", required=True)
    parser.add_argument("--limit", default="cgroup")
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--patience", type=float, default=30)
    parser.add_argument("--no-assert", action="store_true")
    return parser.parse_args()


def ratio(value, idle):
    return f"{value / idle:.0f}x" if idle else "-"


def row(measure, result, idle):
    cells = [result.attack.name, f"{result.growth_mib:.0f}", f"{result.remainder_mib:.0f}"]
    for probe in PROBES:
        waits, calm = result.waits.get(probe, []), measure.median(idle.get(probe, []))
        failed = f", {result.failures[probe]} failed" if result.failures.get(probe) else ""
        if not waits:
            cells.append("no answer")
            continue
        cells.append(f"{measure.median(waits):.2f} / {max(waits):.2f} s ({ratio(measure.median(waits), calm)} / "
                     f"{ratio(max(waits), calm)}){failed}")
    cells.append(result.end or ("yes" if result.recovered else "yes, silent"))
    cells.append("yes" if not result.end and result.recovered and not result.failures.get("show") else "no")
    answers = ", ".join(f"{count} {answer}" for answer, count in result.answers.most_common(4))
    return "| " + " | ".join([*cells, answers or "-", "; ".join(result.problems()) or "-"]) + " |"


COLUMNS = ("Attack", "Peak, MiB over before", "Left, MiB", "`show`: median / worst (ratio to idle)", "`health`",
           "small load", "Daemon alive", "Model served", "Answers", "Problems")
HEADER = "\n| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|\n"


def main():
    options = parse()
    os.environ.update(KEYLOAD_BIN_DIR=str(pathlib.Path(options.bin).resolve()), KEYLOAD_SOURCE_DIR=str(HERE.parents[1]))
    sys.path.append(str(HERE.parent / "integration"))
    import measure

    directory = pathlib.Path(tempfile.mkdtemp(prefix="keyload-hostile-"))
    models = directory / "models"
    models.mkdir()
    problems, rows = 0, rows_of(options)
    limit = None if options.limit == "none" else options.limit
    try:
        for attack in measure.ATTACKS:
            if options.only and attack.name not in options.only:
                continue
            start = time.monotonic()
            target = measure.Target(directory / attack.name, models, limit)
            try:
                idle = target.watch_idle()
                result = target.carry_out(attack, options.patience)
            finally:
                target.kill()
            shutil.rmtree(directory / attack.name, ignore_errors=True)
            problems += bool(result.problems())
            rows[attack.name] = row(measure, result, idle)
            print(f"{time.monotonic() - start:.0f} s {rows[attack.name]}", flush=True)
            write(options, limit, rows, measure)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    sys.exit(1 if problems and not options.no_assert else 0)


def rows_of(options):
    """The rows of a report that is there already, by attack; with --only the others stay."""
    report = pathlib.Path(options.report)
    if not options.only or not report.exists():
        return {}
    lines = [line for line in report.read_text().splitlines() if line.startswith("| ")][1:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def write(options, limit, rows, measure):
    lines = [rows[a.name] for a in measure.ATTACKS if a.name in rows]
    commands = "\n".join(f"- `{a.name}` ({a.group}): {' '.join(a.what.split())}" for a in measure.ATTACKS)
    pathlib.Path(options.report).write_text(
        f"# The hostile corpus against {options.bin}, limit: {limit}\n\nOne fresh daemon with a model of 1 GiB for "
        f"each attack. Probes run all the time; an attack and its aftermath are watched for {options.patience:.0f} s.\n"
        + HEADER + "\n".join(lines) + "\n\n## The attacks\n\n" + commands + "\n")


if __name__ == "__main__":
    main()
