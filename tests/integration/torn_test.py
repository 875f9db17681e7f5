"""A checkpoint that is replaced while it is loaded, in the three ways in which people publish one.

A load gives the tensors of the old version, those of the new one, or CHECKPOINT_CHANGED; never some of each. In CI each
form has 60 loads. For a release, KEYLOAD_TORN_LOADS=1000, and the counts are printed.
"""

import ctypes
import multiprocessing
import os
import sys
import time
import unittest

import checkpoints
import daemon

LOADS = int(os.environ.get("KEYLOAD_TORN_LOADS", "60"))
SHARDS = 12
TENSORS = 48
AT_FDCWD = -100
RENAME_EXCHANGE = 2
VERSIONS = (16, 48)  # elements of every tensor in the one and in the other


def write_version(directory, elements):
    tensors = {f"layers.{i}.weight": ("F32", [elements]) for i in range(TENSORS)}
    checkpoints.write_sharded(directory, tensors, SHARDS)
    return directory


def exchange(first, second):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def exchange_directories(models):
    exchange(models / "live", models / "next")
    yield


def move_link(models):
    target = "b" if os.readlink(models / "live") == "a" else "a"
    os.symlink(target, models / "link")
    os.rename(models / "link", models / "live")
    yield


def replace_files(models):
    for name in sorted(os.listdir(models / "live")):
        exchange(models / "live" / name, models / "next" / name)
        yield


def publish(steps_of, models, stop, steps, pause):
    """The publisher: a new version, a pause, and so on. A process of its own, which no other thread's lock holds up."""
    while not stop.is_set():
        for _ in steps_of(models):
            steps.value += 1
        time.sleep(pause)


class TornTest(daemon.DaemonTest):
    def load(self):
        """Loads once; returns the bytes of all tensors together, or the reason of the refusal."""
        loaded = self.keyload("load", "m", "--from", self.models / "live", "--copy")
        if loaded.code != 0:
            return loaded.error["reason"]
        self.succeed("unload", "m")
        return loaded.json["bytes"]["selected"]

    def count(self, steps_of, pause):
        """Loads beside the publisher; returns how many loads had which outcome."""
        stop, steps = multiprocessing.Event(), multiprocessing.Value("Q", 0)
        publisher = multiprocessing.Process(target=publish, args=(steps_of, self.models, stop, steps, pause))
        publisher.start()
        names = {TENSORS * 4 * elements: name for elements, name in zip(VERSIONS, ("old", "new"))}
        counts = dict.fromkeys(("old", "new", "CHECKPOINT_CHANGED", "mixed", "mixed_on_disk"), 0)
        try:
            for _ in range(LOADS):
                before = steps.value
                outcome = self.load()
                name = names.get(outcome, outcome if isinstance(outcome, str) else "mixed")
                if name == "mixed" and steps.value == before:
                    name = "mixed_on_disk"  # the publisher was held up in the middle: so the directory was
                counts[name] = counts.get(name, 0) + 1
        finally:
            stop.set()
            publisher.join()
        print(f"{self._testMethodName}: {LOADS} loads: {counts}", file=sys.stderr)
        others = LOADS - sum(counts[name] for name in ("old", "new", "CHECKPOINT_CHANGED", "mixed_on_disk"))
        self.assertEqual(others, 0, counts)
        return counts

    def test_directories_that_are_exchanged(self):
        write_version(self.models / "live", VERSIONS[0])
        write_version(self.models / "next", VERSIONS[1])
        counts = self.count(exchange_directories, pause=0.001)
        self.assertGreaterEqual(counts["old"] + counts["new"], LOADS // 10)

    def test_a_link_that_is_moved(self):
        write_version(self.models / "a", VERSIONS[0])
        write_version(self.models / "b", VERSIONS[1])
        (self.models / "live").symlink_to("a")
        counts = self.count(move_link, pause=0.001)
        self.assertGreaterEqual(counts["old"] + counts["new"], LOADS // 10)

    def test_files_that_are_replaced_one_by_one(self):
        write_version(self.models / "live", VERSIONS[0])
        write_version(self.models / "next", VERSIONS[1])
        self.count(replace_files, pause=0.02)


if __name__ == "__main__":
    unittest.main()
