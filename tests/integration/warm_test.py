"""The page cache: --warm, --hold and --drop-cache, measured from outside with mincore."""

import json
import os
import unittest

import cgroups
import checkpoints
import layers
import page_cache

# Read-ahead of a shard's header, and the ends of ranges.
SLACK_BYTES = 512 * 1024


class PageCacheCase(layers.LayersTest):
    def setUp(self):
        super().setUp()
        self.files = sorted(self.source.glob("*.safetensors"))
        self.ranges = {path: ranges(path) for path in self.files}
        self.forget()
        if page_cache.resident_bytes(self.files) > 0:
            self.skipTest(f"the file system of {self.source} keeps its pages: is it in memory?")

    def forget(self):
        page_cache.drop(self.files)

    def in_cache(self):
        return page_cache.resident_bytes(self.files)

    def selected_in_cache(self, keys):
        """Part of the keys' pages that is in the page cache, from 0 to 1."""
        resident = total = 0
        for path in self.files:
            pages = page_cache.resident_pages(path)
            for key in self.ranges[path].keys() & keys:
                begin, end = self.ranges[path][key]
                mine = pages[begin // page_cache.PAGE:(end + page_cache.PAGE - 1) // page_cache.PAGE]
                resident, total = resident + sum(mine), total + len(mine)
        return resident / total


def ranges(path):
    """Where the file has each key's bytes."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(size))
    return {key: [8 + size + offset for offset in entry["data_offsets"]] for key, entry in entries.items()}


class WarmTest(PageCacheCase):
    def warm(self, *more):
        return self.succeed("load", "m", "--from", self.source, *more)

    def test_warm_brings_the_selected_ranges_into_the_page_cache_and_nothing_else(self):
        report = self.warm("--warm", "--include", "layers.[0-3].*")
        self.assertEqual(report["outcome"], "COMPLETE")
        self.assertEqual(self.selected_in_cache(self.layer(0, 1, 2, 3)), 1)
        self.assertLessEqual(self.in_cache(), 1.05 * 8 * layers.TENSOR_BYTES + SLACK_BYTES)
        self.assert_memory(self.memory)

    def test_show_measures_the_page_cache(self):
        self.warm("--warm")
        self.assertGreaterEqual(self.succeed("show", "m")["pageCacheBytes"], 16 * layers.TENSOR_BYTES)
        self.forget()
        self.assertLessEqual(self.succeed("show", "m")["pageCacheBytes"], SLACK_BYTES)

    def test_a_dropped_file_is_not_in_the_page_cache_after_the_load(self):
        self.warm("--drop-cache", "--device-map", "cuda:0")
        self.assertLessEqual(self.selected_in_cache(self.tensors), 0.02)
        self.assert_reads_what_is_stored(self.tensors)

    def test_held_pages_stay_until_the_model_is_unloaded(self):
        report = self.warm("--hold", "--include", "layers.[0-3].*")
        self.assertEqual(report["outcome"], "COMPLETE")
        self.assertEqual(report["warnings"], [])
        self.forget()
        self.assertEqual(self.selected_in_cache(self.layer(0, 1, 2, 3)), 1)
        self.succeed("unload", "m")
        self.forget()
        self.assertEqual(self.in_cache(), 0)


class CgroupTest(PageCacheCase):
    """A daemon that may have less memory than the model has bytes."""

    limit_bytes = 160 * 1024 * 1024
    model_bytes = 256 * 1024 * 1024

    def start(self, *flags):
        self.group = cgroups.make_memory_cgroup(self.limit_bytes)
        if self.group is None:
            self.skipTest("no memory cgroup can be made here")
        self.addCleanup(self.group.rmdir)
        return super().start(*flags, cgroup=self.group)

    def setUp(self):
        super().setUp()
        self.source = self.models / "large"
        checkpoints.write_sharded(self.source, {f"w.{i}": ("U8", [32 << 20]) for i in range(8)}, 4,
                                  write_plain_file)
        self.files = sorted(self.source.glob("*.safetensors"))
        self.forget()

    def test_hold_says_what_it_could_not_keep(self):
        report = self.succeed("load", "m", "--from", self.source, "--hold")
        self.assertIn(report["outcome"], ("COMPLETE", "INCOMPLETE"))
        self.assertTrue(report["warnings"])
        self.assertLess(self.in_cache(), self.model_bytes)
        self.assertIsNone(self.daemon.process.poll())
        self.succeed("unload", "m")

    def test_warm_leaves_the_daemon_alive(self):
        report = self.succeed("load", "m", "--from", self.source, "--warm")
        self.assertTrue(report["warnings"])
        self.succeed("health")
        self.assertLessEqual(self.succeed("show", "m")["pageCacheBytes"], self.model_bytes)


def write_plain_file(path, tensors):
    """As checkpoints.write_file, quick for large files."""
    head, data = checkpoints.header(tensors)
    block = os.urandom(1 << 20)
    with open(path, "wb") as file:
        file.write(head)
        while data > 0:
            data -= file.write(block[:data])


if __name__ == "__main__":
    unittest.main()
