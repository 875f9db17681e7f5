"""A daemon in a control group that is smaller than what it is asked to load: it refuses, and is never killed."""

import ctypes
import hashlib
import os
import pathlib
import shutil
import tempfile
import unittest

import safetensors

import cgroups
import checkpoints
import daemon
import page_cache

MIB = 1 << 20
REFUSED = "DEVICE_OUT_OF_MEMORY"


def write_blocks(path, tensors):
    """As checkpoints.write_file, quick for large files: every MiB is the file's first one with its number in front."""
    head, data = checkpoints.header(tensors)
    block = os.urandom(MIB)
    with open(path, "wb") as file:
        file.write(head)
        for number in range(data // MIB):
            file.write(number.to_bytes(8, "little") + block[8:])


class CgroupCase(unittest.TestCase):
    """Tests start daemons in control groups. Each must be alive at the end."""

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="keyload-test-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.models = self.directory / "models"
        self.models.mkdir()

    def start(self, limit_bytes, *flags):
        group = cgroups.make_memory_cgroup(limit_bytes)
        if group is None:
            self.skipTest("no memory cgroup can be made here")
        self.addCleanup(group.rmdir)
        self.daemon = daemon.Daemon(self.directory, *flags, cgroup=group)
        self.addCleanup(self.stop, self.daemon)
        return group

    def stop(self, server):
        self.assertEqual(server.stop(), 0, f"the daemon was killed:\n{server.log.read_text()}")

    def write(self, name, mib, part_mib=8):
        """A cold checkpoint of so many MiB in tensors of `part_mib`; returns its directory."""
        directory = self.models / name
        parts = {f"w.{i}": ("U8", [part_mib * MIB]) for i in range(mib // part_mib)}
        if mib % part_mib:
            parts["rest"] = ("U8", [mib % part_mib * MIB])
        checkpoints.write_sharded(directory, parts, 2, write_blocks)
        page_cache.drop(directory.glob("*.safetensors"))
        return directory

    def keyload(self, *arguments):
        return self.daemon.command("--json", *arguments)

    def load(self, model, source, *more):
        return self.keyload("load", model, "--from", source, "--device-map", "cpu", "--copy", *more)

    def assert_loaded(self, result):
        self.assertEqual(result.code, 0, result)
        self.assertEqual(result.json["outcome"], "COMPLETE")

    def assert_refused(self, result):
        self.assertEqual(result.code, 6, result)
        self.assertEqual(result.error["reason"], REFUSED, result)
        self.assertIsNone(self.daemon.process.poll(), "the daemon is gone")
        return result.error

    def capacity(self, device="cpu"):
        return next(d for d in self.keyload("devices").json["devices"] if d["device"] == device)["capacityBytes"]

    def assert_intact(self, model, source):
        """Every byte of the model is that of its files."""
        out = self.directory / "read.safetensors"
        for path in sorted(source.glob("*.safetensors")):
            with open(path, "rb") as file:
                stored = {name: hashlib.sha256(tensor["data"]).digest()
                          for name, tensor in safetensors.deserialize(file.read())}
            result = self.keyload("read", model, *stored, "--out", out)
            self.assertEqual(result.code, 0, result)
            read = {name: hashlib.sha256(tensor["data"]).digest()
                    for name, tensor in safetensors.deserialize(out.read_bytes())}
            self.assertEqual(read, stored)


class CapacityTest(CgroupCase):
    def check(self, limit_mib):
        self.start(limit_mib * MIB)
        capacity = self.capacity() // MIB
        self.assertGreater(capacity, limit_mib // 4)
        # A cold load whose bytes fill scratch memory on their way, one just below what the daemon says it has.
        most = self.write("most", capacity)
        result = self.load("most", most)
        if result.code != 0:
            self.assert_refused(result)
        self.keyload("unload", "most")
        nine_tenths = self.write("less", capacity * 9 // 10)
        self.assert_loaded(self.load("less", nine_tenths))
        self.assert_refused(self.load("more", most))
        self.assert_intact("less", nine_tenths)

    def test_load_just_below_the_capacity_of_96_mib_is_survived(self):
        self.check(96)

    def test_load_just_below_the_capacity_of_192_mib_is_survived(self):
        self.check(192)

    def test_load_just_below_the_capacity_of_320_mib_is_survived(self):
        self.check(320)

    def test_two_loads_at_once_in_512_mib_are_survived(self):
        self.start(512 * MIB)
        half = self.write("half", self.capacity() // MIB * 48 // 100)
        loads = [self.daemon.popen("--json", "load", f"m{i}", "--from", half, "--device-map", "cpu", "--copy")
                 for i in range(2)]
        codes = []
        for load in loads:
            out, err = load.communicate(timeout=60)
            if load.returncode != 0:
                self.assert_refused(daemon.Result(load.returncode, out, err))
            codes.append(load.returncode)
        self.assertIn(0, codes)
        self.assert_intact(f"m{codes.index(0)}", half)


class FullGroupTest(CgroupCase):
    """The operator has promised more than the group allows, so that only the group itself can say no."""

    def test_load_over_the_limit_is_refused_before_its_first_byte_and_models_stay_intact(self):
        self.start(192 * MIB, "--host-memory", "10GiB", "--simulate-gpus", "1x10GiB")
        small, large = self.write("small", 64), self.write("large", 256)
        self.assert_loaded(self.load("small", small))
        before = self.daemon.read_characters()
        error = self.assert_refused(self.load("large", large))
        self.assertIn("the control group of the daemon may use 192.0 MiB", error["message"])
        self.assertLess(self.daemon.read_characters() - before, 4 * MIB)
        self.assert_refused(self.load("large", large, "--dtype", "F32"))
        self.assert_refused(self.keyload("load", "gpu", "--from", large, "--device-map", "cuda:0"))
        self.assert_loaded(self.keyload("load", "lazy", "--from", large, "--device-map", "cpu", "--copy", "--lazy"))
        result = self.keyload("materialize", "lazy")
        self.assertEqual((result.code, result.error["reason"]), (6, REFUSED))
        self.assert_intact("small", small)

    def test_two_loads_are_not_given_the_same_room(self):
        self.start(320 * MIB, "--host-memory", "10GiB")
        source = self.write("m", 144)
        for _ in range(3):
            loads = [self.daemon.popen("--json", "load", f"m{i}", "--from", source, "--device-map", "cpu", "--copy")
                     for i in range(2)]
            codes = sorted((load.communicate(timeout=60), load.returncode)[1] for load in loads)
            self.assertEqual(codes, [0, 6])
            for i in range(2):
                self.keyload("unload", f"m{i}")

    def test_page_cache_of_the_group_counts_as_free(self):
        group = self.start(256 * MIB, "--host-memory", "10GiB")
        warm, source = self.write("warm", 224), self.write("m", 128)
        self.assertEqual(self.keyload("load", "warm", "--from", warm, "--warm").code, 0)
        self.assertGreater(usage(group), 160 * MIB)
        self.assert_loaded(self.load("m", source))
        self.assert_intact("m", source)

    def test_idle_memory_goes_before_a_load_is_refused(self):
        self.start(256 * MIB, "--host-memory", "10GiB", "--reuse-memory", "10GiB")
        first, second = self.write("first", 112, part_mib=4), self.write("second", 128, part_mib=32)
        self.assert_loaded(self.load("first", first))
        self.assertEqual(self.keyload("unload", "first").code, 0)
        self.assert_loaded(self.load("second", second))
        self.assert_intact("second", second)


class NeighbourTest(CgroupCase):
    def neighbour(self, group, mib):
        neighbour = cgroups.Neighbour(group, mib)
        self.addCleanup(neighbour.stop)
        self.assertTrue(neighbour.ready)
        return neighbour

    def test_neighbour_that_fills_the_group_during_a_load_has_it_refused(self):
        group = self.start(256 * MIB, "--simulate-gpus", "1x1GiB@24MiB")
        kept, source = self.write("kept", 16), self.write("m", 128)
        self.assert_loaded(self.load("kept", kept))
        load = self.daemon.popen("--json", "load", "m", "--from", source, "--device-map", "cuda:0")
        while not any(l["model"] == "m" and (l.get("progress") or {}).get("phase") == "transfer"
                      for l in self.keyload("loads").json["loads"]):
            pass  # each turn is a call to the daemon
        neighbour = self.neighbour(group, 88)
        out, err = load.communicate(timeout=60)
        self.assert_refused(daemon.Result(load.returncode, out, err))
        self.assertEqual(neighbour.stop(), 0)
        self.assert_loaded(self.keyload("load", "m", "--from", source, "--device-map", "cuda:0"))
        self.assert_intact("kept", kept)

    def test_loads_beside_a_neighbour_that_comes_and_goes_are_survived(self):
        group = self.start(256 * MIB, "--host-memory", "10GiB")
        kept, source = self.write("kept", 16), self.write("m", 96)
        self.assert_loaded(self.load("kept", kept))
        codes = []
        for turn in range(6):
            page_cache.drop(source.glob("*.safetensors"))
            load = self.daemon.popen("--json", "load", "m", "--from", source, "--device-map", "cpu", "--copy")
            neighbour = self.neighbour(group, 56 if turn % 2 else 8)
            out, err = load.communicate(timeout=60)
            if load.returncode != 0:
                self.assert_refused(daemon.Result(load.returncode, out, err))
            codes.append(load.returncode)
            self.assertEqual(neighbour.stop(), 0)
            self.keyload("unload", "m")
        self.assertIn(0, codes)
        self.assert_intact("kept", kept)


def usage(group):
    for name in ("memory.usage_in_bytes", "memory.current"):
        if (group / name).exists():
            return int((group / name).read_text())
    raise AssertionError("the group does not say what it uses")


class HugePagesTest(CgroupCase):
    """Huge pages that are set aside, of which the daemon's control group allows two."""

    COUNT = pathlib.Path("/proc/sys/vm/nr_hugepages")

    def setUp(self):
        super().setUp()
        self.group = self.make_hugetlb_group()
        before = self.COUNT.read_text()
        self.addCleanup(self.COUNT.write_text, before)
        self.COUNT.write_text("32")
        if int(self.COUNT.read_text()) < 32:
            self.skipTest("the machine has no memory for huge pages")
        self.source = self.write("m", 32)

    def make_hugetlb_group(self):
        mount = pathlib.Path(tempfile.mkdtemp(prefix="keyload-hugetlb-"))
        self.addCleanup(mount.rmdir)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"none", bytes(mount), b"cgroup", 0, b"hugetlb") != 0:
            self.skipTest("the hugetlb controller cannot be mounted here")
        self.addCleanup(libc.umount2, bytes(mount), 2)
        group = mount / f"keyload-test-{os.getpid()}"
        group.mkdir()
        self.addCleanup(group.rmdir)
        (group / "hugetlb.2MB.limit_in_bytes").write_text(str(4 * MIB))
        return group

    def start_with(self, how):
        self.daemon = daemon.Daemon(self.directory, "--huge-pages", how, cgroup=self.group)
        self.addCleanup(self.stop, self.daemon)

    def taken(self):
        return int((self.group / "hugetlb.2MB.usage_in_bytes").read_text())

    def test_never_leaves_the_huge_pages_of_others_alone(self):
        self.start_with("never")
        self.assert_loaded(self.load("m", self.source))
        self.assertEqual(self.taken(), 0)

    def test_try_falls_back_to_ordinary_pages_where_the_group_allows_no_more(self):
        self.start_with("try")
        self.assert_loaded(self.load("m", self.source))
        self.assertLessEqual(self.taken(), 4 * MIB)
        self.assert_intact("m", self.source)

    def test_require_refuses_a_load_without_them_and_lives_on(self):
        self.start_with("require")
        error = self.assert_refused(self.load("m", self.source))
        self.assertIn("huge pages: ", error["message"])
        (self.group / "hugetlb.2MB.limit_in_bytes").write_text("-1")
        self.assert_loaded(self.load("m", self.source))
        self.assertGreaterEqual(self.taken(), 32 * MIB)
        self.assert_intact("m", self.source)


if __name__ == "__main__":
    unittest.main()
