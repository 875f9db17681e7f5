"""What open Load streams cost a daemon: how fast it answers others, and the memory of a client that does not read.

    python3 bench/streams.py build/release/bin [--seconds 60]

Starts daemons of its own from the folder of programs, which needs keyloadd and streams_bench. Ends with 1 if health's 99th percentile is
over 50 ms while loads are held, or if a client that does not read costs a MiB more than one that does.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
HEALTH_LIMIT_MS = 50
START_SECONDS = 60


def write_checkpoint(path, size):
    """One tensor "w" of `size` zero bytes, most of them a hole."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)


@contextlib.contextmanager
def daemon(programs, directory, *flags):
    address = f"unix:{directory}/keyload.sock"
    with open(directory / "keyloadd.log", "wb") as log:
        process = subprocess.Popen([programs / "keyloadd", "--listen", address, "--model-root", directory, "--grace", "0s", *flags],
                                   stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (directory / "keyload.sock").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit((directory / "keyloadd.log").read_text())
            time.sleep(0.02)
        yield ["--server", address, "--source", directory / "model.safetensors", "--pid", str(process.pid)]
    finally:
        process.terminate()
        process.wait()


def run(programs, common, *arguments):
    command = [programs / "streams_bench", *common, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def answers(programs, directory):
    """Held loads: each of 64 MiB on a device that takes 1 MiB a second."""
    write_checkpoint(directory / "model.safetensors", 64 * MIB)
    good = True
    for title, streams, flags in (("nothing runs", 0, ()), ("2 loads run, 62 wait", 64, ()),
                                  ("64 loads run", 64, ("--concurrent-loads", "64"))):
        with daemon(programs, directory, "--simulate-gpus", "1x1TiB@1MiB", *flags) as common:
            text = run(programs, common, "answers", "--streams", streams)
        print(f"{title}: {text}", flush=True)
        good &= float(re.search(r"Health.Check.*p99 +([\d.]+) ms", text)[1]) < HEALTH_LIMIT_MS
    return good


def unread(programs, directory, seconds):
    """A load of a MiB for each second, told to a client that reads, and to one that does not until the load has ended."""
    write_checkpoint(directory / "model.safetensors", seconds * MIB)
    good = True
    for names in (100, 10_000):
        growth = {}
        for reads in (True, False):
            with daemon(programs, directory, "--simulate-gpus", "1x1TiB@1MiB") as common:
                line = run(programs, common, "unread", "--bytes", seconds * MIB, "--names", names, *(["--reads"] if reads else []))
            growth[reads], lasted, events, loaded, named = map(int, line.split())
            print(f"  {'reads' if reads else 'does not read'}: {lasted} s, {events} events, the last a report with {loaded} loaded key "
                  f"and {named} names; daemon's memory +{growth[reads]} KiB, the model's {seconds} MiB among it", flush=True)
            good &= (loaded, named) == (1, names)
        cost = growth[False] - growth[True]
        print(f"reports of {names} names: not reading costs {cost} KiB", flush=True)
        good &= names > 100 or cost < 1024
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=pathlib.Path, help="a build's folder bin")
    parser.add_argument("--seconds", type=int, default=60, help="for which a client does not read")
    parser.add_argument("--only", choices=("answers", "unread"))
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}", flush=True)
    good = True
    with tempfile.TemporaryDirectory(prefix="keyload-streams-") as name:
        if options.only != "unread":
            good &= answers(options.programs, pathlib.Path(name))
        if options.only != "answers":
            good &= unread(options.programs, pathlib.Path(name), options.seconds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
