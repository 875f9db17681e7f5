"""Checks that the bookkeeping is linear: runs micro-benchmarks and compares each with itself at half the keys.

    python3 bench/scaling.py build/release/bin/open_bench build/release/bin/plan_bench ...

Prints time(2n) / time(n) of every benchmark that takes a number of keys, the best of three runs each, and ends with 1 if a
ratio is over LIMIT. Times are of the processor, all threads together: they hold on a busy machine too.
"""

import json
import os
import subprocess
import sys

LIMIT = 2.3
MIN_KEYS = 90_000
# Else large tables are mapped anew each time and small ones are not, and the step from one to the other shows as growth.
ONE_WAY_TO_ALLOCATE = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


def times(program):
    """{benchmark: {keys: milliseconds}}"""
    text = subprocess.run([program, "--benchmark_format=json", "--benchmark_repetitions=3"], check=True,
                          env=os.environ | ONE_WAY_TO_ALLOCATE, stdout=subprocess.PIPE, text=True).stdout
    found = {}
    for run in json.loads(text)["benchmarks"]:
        name, _, keys = run["run_name"].removesuffix("/real_time").removesuffix("/process_time").rpartition("/")
        if run["run_type"] != "iteration" or "/" in name or not keys.isdigit():
            continue
        by_keys = found.setdefault(name, {})
        by_keys[int(keys)] = min(run["cpu_time"], by_keys.get(int(keys), run["cpu_time"]))
    return found


def main():
    steep = False
    for program in sys.argv[1:]:
        for name, by_keys in times(program).items():
            for keys, time in sorted(by_keys.items()):
                if keys < MIN_KEYS or 2 * keys not in by_keys:
                    continue
                ratio = by_keys[2 * keys] / time
                steep |= ratio > LIMIT
                print(f"{name:32} {keys:>9} keys {time:8.1f} ms, twice as many x {ratio:.2f}"
                      f"{'  TOO STEEP' if ratio > LIMIT else ''}")
    return 1 if steep else 0


if __name__ == "__main__":
    sys.exit(main())
