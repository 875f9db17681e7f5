"""Every attack of the table against one daemon under a limit, with a model of 1 GiB: it answers, serves and stays.

Under a memory cgroup all attacks run, under an address-space limit those that are after memory. A daemon that an attack
ends is replaced, so that each attack has a result of its own; the last tests of the class fail then.
"""

import pathlib
import shutil
import sys
import tempfile
import time
import unittest

import measure

PATIENCE_SECONDS = 40
_directory = None


def setUpModule():
    global _directory
    _directory = pathlib.Path(tempfile.mkdtemp(prefix="keyload-hostile-"))
    (_directory / "models").mkdir()


def tearDownModule():
    shutil.rmtree(_directory)


class Corpus:
    """One class for each limit; a test for each attack."""

    limit = None

    @classmethod
    def setUpClass(cls):
        cls.started = 0
        cls.target = cls.start()

    @classmethod
    def tearDownClass(cls):
        cls.target.close() if cls.target.daemon.alive else cls.target.kill()

    @classmethod
    def start(cls):
        cls.started += 1
        directory = _directory / f"{cls.limit}-{cls.started}"
        try:
            return measure.Target(directory, _directory / "models", cls.limit)
        except LookupError as e:
            print(f"{e}: the address space is limited instead", file=sys.stderr)
            return measure.Target(directory, _directory / "models", "address_space")

    def carry_out(self, attack):
        if attack.beyond:
            self.skipTest(attack.beyond)
        cls = type(self)
        if not cls.target.daemon.alive:
            cls.target.kill()
            cls.target = cls.start()
        start = time.monotonic()
        result = cls.target.carry_out(attack, PATIENCE_SECONDS)
        print(f"{summary(attack, result)}, {time.monotonic() - start:.1f} s in all", file=sys.stderr, flush=True)
        if problems := result.problems():
            self.fail(f"{' '.join(attack.what.split())}:\n  " + "\n  ".join(problems) +
                      f"\nanswers: {dict(result.answers)}\nthe end of the log:\n{self.log_end()}")

    def log_end(self):
        lines = self.target.daemon.log.read_text(errors="replace").splitlines()
        return "\n".join(line[:300] for line in lines if '"probe"' not in line)[-2000:]

    def test_the_model_is_intact(self):
        """After all attacks each tensor has the bytes that were written."""
        self.assertEqual(self.target.tensors_differ(), [])

    def test_one_process_served_all_the_time(self):
        self.assertEqual(self.started, 1, "the daemon ended and was started again")
        self.assertTrue(self.target.daemon.alive, self.log_end())


class CgroupTest(Corpus, unittest.TestCase):
    limit = "cgroup"
    attacks = measure.ATTACKS


class AddressSpaceTest(Corpus, unittest.TestCase):
    limit = "address_space"
    attacks = [attack for attack in measure.ATTACKS if attack.memory]


def summary(attack, result):
    waits = ", ".join(f"{probe} {measure.median(w):.2f}/{max(w):.2f} s" for probe, w in result.waits.items() if w)
    return (f"{attack.name}: {result.seconds:.1f} s, peak {result.growth_mib:+.0f} MiB, left "
            f"{result.remainder_mib:+.0f} MiB, {waits}, {dict(result.answers)}")


def add_tests(case):
    """Returns the names of its tests in the order in which they run."""
    for attack in case.attacks:
        setattr(case, f"test_{attack.name}", lambda self, attack=attack: self.carry_out(attack))
    return [*(f"test_{attack.name}" for attack in case.attacks), "test_the_model_is_intact",
            "test_one_process_served_all_the_time"]


ORDER = {case: add_tests(case) for case in (CgroupTest, AddressSpaceTest)}


def load_tests(loader, _tests, _pattern):
    return unittest.TestSuite(case(name) for case, names in ORDER.items()
                              for name in names if name in loader.getTestCaseNames(case))


if __name__ == "__main__":
    unittest.main()
