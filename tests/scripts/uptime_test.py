"""Runs test programs as if the machine had started seconds, minutes or months ago.

    python3 uptime_test.py PROGRAM...

The steady clock counts from the start of the machine, so code and tests that take a time for "long ago" or "not yet" are
right on some machines and wrong on others. Each program gets a time namespace of its own, in which the machine has been up
for 5 seconds when the program begins. KEYLOAD_UPTIMES names other uptimes: KEYLOAD_UPTIMES=5,600,25920000. Needs root; ends
with 77 where no time namespace can be made.
"""

import os
import pathlib
import subprocess
import sys


def uptime_of_the_machine():
    """The real one, also where this process is in a time namespace itself: offsets count from that."""
    now = float(pathlib.Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    offsets = dict(line.split()[:2] for line in pathlib.Path("/proc/self/timens_offsets").read_text(encoding="ascii").splitlines())
    return now - int(offsets["boottime"])


def command_with_uptime(uptime, command):
    """`command` in a time namespace in which the machine has been up for `uptime` seconds now. It is a child of unshare,
    as only children enter the namespace."""
    offset = round(uptime - uptime_of_the_machine())
    return ["unshare", "--time", f"--monotonic={offset}", f"--boottime={offset}", "--fork", "--kill-child", *command]


def main(programs):
    if not programs:
        print("uptime test: no program is named")
        return 1
    try:
        probe = subprocess.run(command_with_uptime(5, ["cat", "/proc/uptime"]), capture_output=True, text=True, check=False)
    except OSError as error:
        print(f"uptime test skipped: no time namespace can be made here: {error}")
        return 77
    if probe.returncode != 0:
        print(f"uptime test skipped: no time namespace can be made here: {probe.stderr.strip()}")
        return 77
    if not 0 <= float(probe.stdout.split()[0]) < 30:
        print(f"uptime test: a namespace that is 5 s old says {probe.stdout}")
        return 1
    failed = 0
    for uptime in os.environ.get("KEYLOAD_UPTIMES", "5").split(","):
        for program in programs:
            run = subprocess.run(command_with_uptime(int(uptime), [program, "--gtest_brief=1"]), text=True, check=False,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            last = run.stdout.strip().splitlines()[-1:] or ["no output"]
            print(f"up {uptime} s: {pathlib.Path(program).name}: exit {run.returncode}, {last[0]}", flush=True)
            if run.returncode != 0:
                failed += 1
                print(run.stdout)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
