"""Two builds of keyload beside each other: is one slower than the other?

    python3 bench/compare_builds.py --before DIR/bin --after DIR/bin [--pairs 40]

Each round runs every case on three daemons in turn: the older build, the newer one, and the older one once more as a
control, which says what the machine's noise is. The order within a round rotates. It prints the median of the paired
ratios after/before and control/before, for wall time and for the daemon's processor time, and ends with 1 if one of the
first is over the control's by more than three percent.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import streams

sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests/integration"))
os.environ.setdefault("KEYLOAD_SOURCE_DIR", str(pathlib.Path(__file__).parents[1]))
os.environ.setdefault("KEYLOAD_BIN_DIR", "unused")

import checkpoints  # noqa: E402

TOLERATED = 0.03
EAGER_GIB = 1
TICKS = os.sysconf("SC_CLK_TCK")


class Build:
    """A daemon of one build, and what it is asked."""

    def __init__(self, name, programs, directory, exits):
        self.name, self.programs = name, pathlib.Path(programs).resolve()
        home = directory / name
        home.mkdir()
        self.address = f"unix:{home}/keyload.sock"
        log = exits.enter_context(open(home / "keyloadd.log", "wb"))
        self.process = subprocess.Popen([self.programs / "keyloadd", "--listen", self.address, "--model-root", directory],
                                        stdout=log, stderr=log)
        exits.callback(self.stop)
        deadline = time.monotonic() + streams.START_SECONDS
        while self.keyload("health").returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit((home / "keyloadd.log").read_text())
            time.sleep(0.02)

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def keyload(self, *arguments):
        return subprocess.run([self.programs / "keyload", "--server", self.address, "--json", *map(str, arguments)],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def measure(self, case):
        """Wall seconds as the report has them, and processor seconds of the daemon, of one run of `case`."""
        before = self.cpu_seconds()
        wall = 0
        for _ in range(case["repeat"]):
            result = self.keyload(*case["arguments"])
            if result.returncode != 0:
                sys.exit(f"{self.name}: {result.stdout}{result.stderr}")
            wall += json.loads(result.stdout)["totalSeconds"]
            if case["unload"]:
                self.keyload("unload", "m")
        return wall, self.cpu_seconds() - before


def write_eager(path):
    with open(path, "wb") as file:
        tensors = {f"w.{i}": ("U8", [4 << 20]) for i in range(EAGER_GIB * 256)}
        file.write(checkpoints.header(tensors)[0])
        for i in range(len(tensors)):
            file.write(bytes([i % 251]) * (4 << 20))


def cases(directory):
    wide = directory / "wide"
    checkpoints.write_sharded(wide, checkpoints.large_model(), 163, checkpoints.write_sparse_file)
    eager = directory / "eager.safetensors"
    write_eager(eager)
    load = ["load", "m", "--from"]
    return {
        "plan of 91,991 keys": {"arguments": ["plan", "m", "--from", wide], "repeat": 4, "unload": False},
        "the same with auto": {"arguments": ["plan", "m", "--from", wide, "--device-map", "auto"], "repeat": 4,
                               "unload": False},
        "lazy load of 91,991 keys": {"arguments": [*load, wide, "--lazy"], "repeat": 2, "unload": True},
        f"eager load, {EAGER_GIB} GiB copied": {"arguments": [*load, eager, "--copy"], "repeat": 1, "unload": True},
        f"eager load, {EAGER_GIB} GiB mapped": {"arguments": [*load, eager], "repeat": 2, "unload": True},
    }


def ratios(samples, build, what):
    return [sample[build][what] / sample["before"][what] for sample in samples if sample["before"][what] > 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="folder of the older keyloadd and keyload")
    parser.add_argument("--after", required=True, help="folder of the newer ones")
    parser.add_argument("--pairs", type=int, default=40)
    options = parser.parse_args()
    slower = False
    with tempfile.TemporaryDirectory(prefix="keyload-builds-") as name, contextlib.ExitStack() as exits:
        directory = pathlib.Path(name)
        builds = [Build(*build, directory, exits) for build in (
            ("before", options.before), ("after", options.after), ("control", options.before))]
        print("| Case | Wall: before, s | after / before | control | Processor: before, s | after / before | control |")
        print("|---|---|---|---|---|---|---|")
        for title, case in cases(directory).items():
            for build in builds:
                build.measure(case)  # the page cache, the heap and the pages of segments are there afterwards
            samples = []
            for i in range(options.pairs):
                order = builds[i % 3:] + builds[:i % 3]
                samples.append({build.name: build.measure(case) for build in order})
            cells = []
            for what in (0, 1):
                after, control = (statistics.median(ratios(samples, build, what)) for build in ("after", "control"))
                slower |= after > control + TOLERATED
                cells += [f"{statistics.median(s['before'][what] for s in samples):.4f}", f"{after:.3f}", f"{control:.3f}"]
            print("| " + " | ".join([title, *cells]) + " |", flush=True)
    sys.exit(slower)


if __name__ == "__main__":
    main()
